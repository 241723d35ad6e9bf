// Matching names.
#include "lockstep/core/name_pattern.h"

namespace lockstep {

bool matches_pattern(const std::string& pattern, const std::string& name) {
  // On a mismatch behind a star, the last star takes one character more: earlier ones never need to.
  size_t p = 0, n = 0, star = std::string::npos, star_end = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_end = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++star_end;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace lockstep
