// Characters whose class a library of regular expressions may not know yet.
#pragma once

namespace lockstep {

// An old character of the same general category and the same length in UTF-8, for what Unicode 15, 15.1 and
// 16 have added and what PCRE2 puts elsewhere; any other character itself.
char32_t known_character(char32_t code_point);

}  // namespace lockstep
