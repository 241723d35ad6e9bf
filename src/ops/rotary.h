// Rotary positions (Su et al. 2021, "RoFormer"), the halves of a head turned against each other as the models
// of Hugging Face are stored.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// x (B,T,H,D), D even; cosines and sines (T, D/2) -> (B,T,H,D): with a and b the halves of a head's numbers,
// a cos - b sin and b cos + a sin. Computed in the accumulation type of x, rounded to its type once. Error
// (kInternal) for shapes that do not fit.
Tensor rotary(const Tensor& x, const Tensor& cosines, const Tensor& sines);

}  // namespace lockstep
