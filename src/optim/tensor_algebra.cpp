// Kernels called on tensors.
#include "lockstep/optim/tensor_algebra.h"

#include "lockstep/optim/flat_update.h"

namespace lockstep {

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  MatmulArguments arguments;
  arguments.dtype = arguments.output = a.dtype();
  arguments.m = a.shape()[transpose_a ? 1 : 0];
  arguments.k = a.shape()[transpose_a ? 0 : 1];
  arguments.n = b.shape()[transpose_b ? 0 : 1];
  arguments.transpose_a = transpose_a;
  arguments.transpose_b = transpose_b;
  Tensor c = Tensor::empty({arguments.m, arguments.n}, a.dtype(), a.backend());
  arguments.a = a.data();
  arguments.b = b.data();
  arguments.c = c.mutable_data();
  a.backend().matmul(arguments);
  return c;
}

Tensor scaled(const Tensor& x, double factor) {
  Tensor y = x.empty_like();
  x.backend().scale_shift(x.dtype(), x.elements(), x.data(), factor, 0.0, y.mutable_data());
  return y;
}

Tensor weighted_sum(double alpha, const Tensor& x, double beta, const Tensor& y) {
  Tensor sum = scaled(x, alpha);
  const Tensor term = scaled(y, beta);
  x.backend().accumulate(x.dtype(), x.elements(), term.data(), sum.mutable_data());
  return sum;
}

// As the velocity of a step of length 0 from a parameter that nobody needs.
void blend(Tensor average, const Tensor& x, double beta) {
  flat_update(UpdateFormula::kMomentumAveraged, average.full_like(0.0), x, 1.0, {average}, {0.0, 0.0, beta});
}

Tensor square_of(const Tensor& x) {
  Tensor y = x.empty_like();
  x.backend().unary(UnaryOp::kSquare, x.dtype(), x.elements(), x.data(), y.mutable_data());
  return y;
}

Tensor combined(BinaryOp op, const BroadcastPlan& plan, const Tensor& a, const Tensor& b,
                const Shape& shape) {
  Tensor y = Tensor::empty(shape, a.dtype(), a.backend());
  a.backend().binary(op, a.dtype(), plan, a.data(), b.data(), y.mutable_data());
  return y;
}

Tensor combined(BinaryOp op, const Tensor& a, const Tensor& b) {
  BroadcastPlan plan;
  plan.rank = 1;
  plan.extents[0] = a.elements();
  plan.strides_a[0] = plan.strides_b[0] = 1;
  return combined(op, plan, a, b, a.shape());
}

Tensor over_root(const Tensor& x, const Tensor& y, double epsilon) {
  Tensor root = y.empty_like(), denominator = y.empty_like();
  Backend& backend = y.backend();
  backend.unary(UnaryOp::kSqrt, y.dtype(), y.elements(), y.data(), root.mutable_data());
  backend.scale_shift(y.dtype(), y.elements(), root.data(), 1.0, epsilon, denominator.mutable_data());
  return combined(BinaryOp::kDivide, x, denominator);
}

Shape matrix_shape(const Shape& shape) {
  return {shape[0], shape.elements(1, shape.rank())};
}

}  // namespace lockstep
