// A table of spellings, asked for the lengths that occur with a first byte.
#include "lockstep/text/special_tokens.h"

#include <algorithm>

namespace lockstep {

void SpecialTokenSearch::add(const std::string& text, int32_t id) {
  if (text.empty() || !ids_.add(text, id)) return;
  std::vector<size_t>& lengths = lengths_[static_cast<unsigned char>(text[0])];
  if (lengths.empty()) first_bytes_ += text[0];
  if (std::ranges::find(lengths, text.size()) == lengths.end()) lengths.push_back(text.size());
  std::ranges::sort(lengths, std::greater<>());
}

// The first byte from `at` on that begins a token.
size_t SpecialTokenSearch::candidate(std::string_view text, size_t at) const {
  if (at >= text.size()) return text.size();
  if (first_bytes_.size() == 1) {
    const void* found = std::memchr(text.data() + at, first_bytes_[0], text.size() - at);
    return found == nullptr ? text.size()
                            : static_cast<size_t>(static_cast<const char*>(found) - text.data());
  }
  while (at < text.size() && lengths_[static_cast<unsigned char>(text[at])].empty()) ++at;
  return at;
}

int32_t SpecialTokenSearch::find_at(std::string_view text, size_t at, size_t& length) const {
  for (const size_t candidate_length : lengths_[static_cast<unsigned char>(text[at])]) {
    if (at + candidate_length > text.size()) continue;
    const auto found = ids_.find(text.substr(at, candidate_length));
    if (!found) continue;
    length = candidate_length;
    return *found;
  }
  length = 0;
  return -1;
}

}  // namespace lockstep
