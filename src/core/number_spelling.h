// Numbers as people write them and TOML does not read them: .5, 5., 1.e-3, and what no type holds.
#pragma once

#include <string>
#include <string_view>

namespace lockstep {

// `text` with the zeros that TOML wants beside a decimal point: "[.5, 1.e-3]" becomes "[0.5, 1.0e-3]". What
// stands in quotes stays.
std::string spelled_for_toml(std::string_view text);

// The first number in `text`, outside of quotes, that no value holds, and why: "99999999999999999999 is
// beyond 64 bits" or "1e999 is beyond the range of fp64"; "" when there is none.
std::string number_out_of_range(std::string_view text);

// What is wrong with the number in or right before `column` (from 1) of a line of TOML: "TOML writes .001 as
// 0.001", or the above; "" when there is no such number.
std::string misspelt_number(std::string_view line, size_t column);

}  // namespace lockstep
