// Activations of feed-forward networks that are not those of one number.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// h (..., 2F) -> (..., F): with g the first half of a row and u the second, g sigmoid(g) u (Shazeer 2020,
// "GLU variants improve transformer"). Computed in the accumulation type of h, rounded to its type once.
// Error (kUsage) for a last extent that is odd.
Tensor swiglu(const Tensor& h);

}  // namespace lockstep
