// Arithmetic of whole tensors that optimizers of matrices are composed of: one kernel each, on the tensors'
// own backend.
#pragma once

#include "lockstep/kernels/backend.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep {

// op(a) op(b) of matrices; op transposes where asked.
Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b);
// alpha x + beta y
Tensor weighted_sum(double alpha, const Tensor& x, double beta, const Tensor& y);
Tensor scaled(const Tensor& x, double factor);
// average <- beta average + (1 - beta) x
void blend(Tensor average, const Tensor& x, double beta);
Tensor square_of(const Tensor& x);
// op(a, b) elementwise as the plan says; the second form of equal extents.
Tensor combined(BinaryOp op, const BroadcastPlan& plan, const Tensor& a, const Tensor& b, const Shape& shape);
Tensor combined(BinaryOp op, const Tensor& a, const Tensor& b);
// x / (sqrt(y) + epsilon)
Tensor over_root(const Tensor& x, const Tensor& y, double epsilon);

// x + shift
Tensor shifted(const Tensor& x, double shift);
Tensor absolute(const Tensor& x);
// Waits.
bool is_finite(const Tensor& x);
// 1 / x
Tensor reciprocal_of(const Tensor& x);
// x (n, ...) with row i times factors[i], or (..., n) with column j times factors[j].
Tensor stretched(const Tensor& x, const Tensor& factors, bool rows);
// Sum of the products of elements in fp64, on the host; waits.
double inner_product(const Tensor& x, const Tensor& y);
// Of a matrix (n, n), or the sum of a diagonal (n); waits.
double trace(const Tensor& x);

// What optimizers take a parameter of two axes or more for: (first axis, all others).
Shape matrix_shape(const Shape& shape);

}  // namespace lockstep
