// Differentiable table lookup.
#pragma once

#include "tensor/tensor.h"

namespace lockstep {

// table (rows, width), indices (...) int32 in [0, rows) -> (..., width). Error (kData) names the first index out of range.
Tensor embedding(const Tensor& table, const Tensor& indices);

}  // namespace lockstep
