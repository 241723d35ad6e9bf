// Where special tokens are spelt out in a text.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/text/text_ids.h"

namespace lockstep {

// Lets a table of strings be asked with views.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

// Leftmost first, of those that begin at one place the longest. Linear in the text but for texts of nothing
// but beginnings of tokens.
class SpecialTokenSearch {
 public:
  // The first of several tokens with one spelling counts.
  void add(const std::string& text, int32_t id);
  bool empty() const { return ids_.empty(); }

  // Calls text(part) for what lies between the tokens (never empty) and token(id) for each, in order.
  template <class Text, class Token>
  void visit(std::string_view text, const Text& on_text, const Token& on_token) const {
    size_t done = 0;
    for (size_t at = 0; !empty() && (at = candidate(text, at)) < text.size();) {
      size_t length = 0;
      const int32_t id = find_at(text, at, length);
      if (length == 0) {
        ++at;
        continue;
      }
      if (at > done) on_text(text.substr(done, at - done));
      on_token(id);
      done = at += length;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  size_t candidate(std::string_view text, size_t at) const;
  int32_t find_at(std::string_view text, size_t at, size_t& length) const;

  TextIds ids_;
  std::array<std::vector<size_t>, 256> lengths_;  // of tokens with this first byte, descending
  std::string first_bytes_;
};

}  // namespace lockstep
