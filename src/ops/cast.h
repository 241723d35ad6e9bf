// Differentiable conversion between floating types.
#pragma once

#include "tensor/tensor.h"

namespace lockstep {

// x rounded to the nearest value of `dtype`, ties to even; x itself when it has that type. The derivative is
// cast back to the type of x. Error (kInternal) unless both types are floating.
Tensor cast(const Tensor& x, DType dtype);

}  // namespace lockstep
