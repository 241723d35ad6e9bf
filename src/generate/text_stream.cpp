// Holding back what is not decided yet.
#include "lockstep/generate/text_stream.h"

#include <algorithm>

namespace lockstep {

namespace {

// Bytes at the end that a character begins with and that lack the rest of it.
size_t unfinished(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const size_t length = byte >= 0xF0 && byte <= 0xF4 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 1;
    return byte <= 0xF4 && length > back ? back : 0;
  }
  return 0;
}

// Bytes at the end that are the beginning of a stop text.
size_t begun(std::string_view text, const std::vector<std::string>& stops) {
  size_t most = 0;
  for (const std::string& stop : stops) {
    for (size_t count = std::min(stop.size() - 1, text.size()); count > most; --count) {
      if (text.ends_with(std::string_view(stop).substr(0, count))) most = count;
    }
  }
  return most;
}

}  // namespace

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return "";
  held_ += bytes;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    std::string shown = held_.substr(0, first);
    held_.clear();
    return shown;
  }
  const size_t kept = std::max(unfinished(held_), begun(held_, stops_));
  std::string shown = held_.substr(0, held_.size() - kept);
  // A stop text may begin inside of what is held, a character before it.
  shown.resize(shown.size() - unfinished(shown));
  held_.erase(0, shown.size());
  return shown;
}

std::string TextStream::finish() {
  if (stopped_) return "";
  std::string shown = std::move(held_);
  held_.clear();
  if (const size_t part = unfinished(shown); part > 0) {
    shown.resize(shown.size() - part);
    shown += "\xEF\xBF\xBD";
  }
  return shown;
}

}  // namespace lockstep
