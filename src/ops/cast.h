// Differentiable conversion between floating types.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// x rounded to the nearest value of `dtype`, ties to even; x itself when it has that type. The derivative is
// cast back to the type of x. Error (kUsage) unless both types are floating.
Tensor cast(const Tensor& x, DType dtype);
// 16-bit numbers in fp32, others as they are.
inline Tensor widened(const Tensor& x) {
  return cast(x, accumulation_type(x.dtype()));
}

}  // namespace lockstep
