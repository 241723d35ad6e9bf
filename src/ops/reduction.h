// Differentiable sums, means and maxima over axes, and their opposite, broadcasting.
#pragma once

#include <vector>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// Over one axis or several; keep_axes leaves extents of 1. An empty list means all axes.
Tensor sum(const Tensor& x, const std::vector<int>& axes = {}, bool keep_axes = false);
Tensor mean(const Tensor& x, const std::vector<int>& axes = {}, bool keep_axes = false);
// Over one axis. Equal maxima share the derivative equally.
Tensor max(const Tensor& x, int axis, bool keep_axis = false);

// x repeated to `shape`.
Tensor broadcast_to(const Tensor& x, const Shape& shape);
// The adjoint of broadcast_to: x summed down to `shape`.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace lockstep
