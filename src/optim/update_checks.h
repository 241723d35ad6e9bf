// Checks of what an optimizer is handed against what it was allocated for.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Error (kInternal) naming the optimizer unless every segment lies within [0, extent).
void check_update_segments(const std::string& type, std::span<const UpdateSegment> segments, int64_t extent);

// The same, and unless the arrays have that extent and dtype; gradients may be longer.
void check_update_context(const std::string& type, const UpdateContext& context, int64_t extent, DType dtype);

}  // namespace lockstep
