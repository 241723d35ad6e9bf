// Dropout (Srivastava et al. 2014), inverted form: kept elements are scaled by 1/(1 - probability).
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Draws from the current RandomScope; identity when probability is 0.
Tensor dropout(const Tensor& x, double probability);

}  // namespace lockstep
