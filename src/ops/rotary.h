// Rotary positions (Su et al. 2021, "RoFormer"), the halves of a head turned against each other as the models
// of Hugging Face are stored.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// x (B,T,H,D), D even; cosines and sines (T, D/2) -> (B,T,H,D): with a and b the halves of a head's numbers,
// a cos - b sin and b cos + a sin in the first `turned` heads (below 0: in all), the others as they are. So
// queries and keys are turned where values lie beside them. Computed in the accumulation type of x, rounded
// to its type once; the tables are constants. Error (kUsage) for shapes that do not fit.
Tensor rotary(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t turned = -1);

}  // namespace lockstep
