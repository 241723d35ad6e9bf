// Differentiable rearrangements: reshape, transpose, slice, concatenate.
#pragma once

#include <vector>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// One extent may be -1: it is worked out.
Tensor reshape(const Tensor& x, std::span<const int64_t> extents);
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor reshape(const Tensor& x, std::initializer_list<int64_t> extents);

// Output axis i is input axis permutation[i].
Tensor permute(const Tensor& x, const std::vector<int>& permutation);
// Exchanges two axes.
Tensor transpose(const Tensor& x, int axis_a = -2, int axis_b = -1);

// Elements [begin, end) of one axis.
Tensor slice(const Tensor& x, int axis, int64_t begin, int64_t end);
// x placed at [begin, begin + extent) of an axis of the given size, zeros around: the adjoint of slice.
Tensor pad_axis(const Tensor& x, int axis, int64_t begin, int64_t size);
Tensor concatenate(const std::vector<Tensor>& parts, int axis);

}  // namespace lockstep
