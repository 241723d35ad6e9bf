// Bytes of tokens as text that may be shown at once.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep {

class TextStream {
 public:
  // stops: texts that end the stream, and are not part of it; none of them empty.
  explicit TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // What can be shown after these bytes: no part of a character of UTF-8, and nothing that a stop text may
  // begin with.
  std::string push(std::string_view bytes);
  // A stop text has come.
  bool stopped() const { return stopped_; }
  // What is left at the end; a part of a character is U+FFFD.
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace lockstep
