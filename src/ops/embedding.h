// Differentiable table lookup.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// table (rows, width), indices (...) int32 in [0, rows) -> (..., width). Error (kData) names the first index
// out of range.
Tensor embedding(const Tensor& table, const Tensor& indices);

// Error (kData) "WHERE VALUE at position P is outside [0, LIMIT)" unless every int32 of `indices` is inside.
void require_indices(const Tensor& indices, int64_t limit, const char* where);

}  // namespace lockstep
