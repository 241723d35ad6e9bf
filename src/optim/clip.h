// Global-norm clipping and the global norm itself, the same bits whatever the sharding.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace lockstep {

// Euclidean norm of the first n elements: fp64 sums of squares over fixed blocks of the flat array, blocks
// added in tree order (the tree of DESIGN 4.4 over block numbers). Times |scale|.
double global_norm(const Tensor& gradients, int64_t n, double scale);

// The factor min(1, max_norm / (norm + 1e-6)) (Pascanu et al. 2013; constant as in common practice). 1 when
// max_norm is 0 (clipping off) or the norm is not finite.
double clip_factor(double norm, double max_norm);

}  // namespace lockstep
