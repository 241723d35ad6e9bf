// A checkpoint in words: what `lockstep inspect` prints.
#pragma once

#include <string>

#include "lockstep/checkpoint/state.h"

namespace lockstep {

// Several lines: digest, scalars (the step among them), every array with dtype, shape and bytes, totals by
// group, the number of metrics lines, and the configuration.
std::string describe_state(const State& state);

}  // namespace lockstep
