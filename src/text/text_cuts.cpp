// Looks from the end on: letters with blanks and lines are everywhere in text.
#include "text/text_cuts.h"

namespace lockstep {

namespace {

bool is_letter(char byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

bool is_ascii_space(char byte) {
  return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

// Whether a sequence that begins so may be white space: U+0085, U+00A0, U+1680, U+2000 to U+205F, U+3000.
bool may_begin_space(std::string_view text) {
  return is_ascii_space(text[0]) || text.starts_with("\xC2") || text.starts_with("\xE1\x9A") ||
         text.starts_with("\xE2\x80") || text.starts_with("\xE2\x81") || text.starts_with("\xE3\x80\x80");
}

// The same of what ends before text[end].
bool may_end_space(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && end - begin < 4 && (text[begin] & '\xC0') == '\x80') --begin;
  return may_begin_space(text.substr(begin, end - begin));
}

}  // namespace

size_t last_cut(std::string_view text) {
  if (text.size() < 3) return 0;
  // A sequence at the very end may go on behind it: the last 4 bytes are not looked at as the next character.
  for (size_t at = text.size() - 2; at >= 1; --at) {
    if (text[at] == ' ' && is_letter(text[at - 1]) && is_letter(text[at + 1])) return at;
    if (text[at] == '\n' && text.size() - at > 4 && text[at + 1] != '/' &&
        !may_begin_space(text.substr(at + 1)) && !may_end_space(text, at))
      return at + 1;
  }
  return 0;
}

}  // namespace lockstep
