// What this build is and what it contains.
#pragma once

#include <string>

namespace lockstep {

// Several lines: version, compiler, libraries, what was left out.
std::string version_text();

}  // namespace lockstep
