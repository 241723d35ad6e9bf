// Where text may be cut without a change to its tokens.
#pragma once

#include <cstddef>
#include <string_view>

namespace lockstep {

// The last place inside of `text`, whose bytes may be malformed, where pieces end for every pattern of
// known_pattern(): before a blank between two letters of ASCII, and behind a single line feed between
// characters that are no white space (and no "/", which o200k joins to line feeds). 0: there is none.
size_t last_cut(std::string_view text);

}  // namespace lockstep
