// Patterns of names.
#pragma once

#include <string>

namespace lockstep {

// Whether the whole name fits: * stands for any characters, ? for one.
bool matches_pattern(const std::string& pattern, const std::string& name);

}  // namespace lockstep
