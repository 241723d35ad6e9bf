// UTF-8 as it comes: malformed bytes replaced as everybody replaces them, code points read and written.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lockstep {

// The text itself where it is well-formed; else, in `scratch`, with U+FFFD in the place of each maximal part
// of a malformed sequence (Unicode, section 3.9: what the decoders of Python, Rust and browsers do).
std::string_view well_formed(std::string_view text, std::string& scratch);

// Of the code point that begins with this byte of well-formed text.
inline size_t utf8_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// The code point at text[at], of well-formed text; moves `at` behind it.
char32_t next_code_point(std::string_view text, size_t& at);

void append_code_point(std::string& text, char32_t code_point);

// How many columns of a terminal it takes: 0, 1 or 2.
int columns_of(char32_t code_point);

// Where the first byte from `at` on stands that is not ASCII; text.size() where none is.
size_t skip_ascii(std::string_view text, size_t at);

}  // namespace lockstep
