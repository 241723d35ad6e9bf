// Kernels called on tensors.
#include "lockstep/optim/tensor_algebra.h"

#include <utility>

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

void blend(Tensor average, const Tensor& x, double beta) {
  flat_update(UpdateFormula::kRunning, std::move(average), x, 1.0 - beta, {}, {0.0, 0.0, 1.0 - beta});
}

namespace {

Tensor applied(UnaryOp op, const Tensor& x) {
  Tensor y = x.empty_like();
  x.backend().unary(op, x.dtype(), x.elements(), x.data(), y.mutable_data());
  return y;
}

}  // namespace

Tensor square_of(const Tensor& x) {
  return applied(UnaryOp::kSquare, x);
}

Tensor absolute(const Tensor& x) {
  return applied(UnaryOp::kAbs, x);
}

Tensor reciprocal_of(const Tensor& x) {
  return applied(UnaryOp::kReciprocal, x);
}

bool is_finite(const Tensor& x) {
  return x.backend().all_finite(x.dtype(), x.elements(), x.data());
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

Tensor shifted(const Tensor& x, double shift) {
  Tensor y = x.empty_like();
  x.backend().scale_shift(x.dtype(), x.elements(), x.data(), 1.0, shift, y.mutable_data());
  return y;
}

Tensor stretched(const Tensor& x, const Tensor& factors, bool rows) {
  BroadcastPlan plan;
  plan.rank = 2;
  const int64_t n = factors.elements(), others = x.elements() / n;
  plan.extents[0] = rows ? n : others;
  plan.extents[1] = rows ? others : n;
  plan.strides_a[0] = plan.extents[1];
  plan.strides_a[1] = 1;
  plan.strides_b[rows ? 0 : 1] = 1;
  return combined(BinaryOp::kMultiply, plan, x, factors, x.shape());
}

double inner_product(const Tensor& x, const Tensor& y) {
  const Tensor products = combined(BinaryOp::kMultiply, x.converted(DType::kF64), y.converted(DType::kF64));
  Tensor sum = Tensor::empty({1}, DType::kF64, x.backend());
  x.backend().reduce(ReduceOp::kSum, DType::kF64, 1, products.elements(), 1, products.data(),
                     sum.mutable_data());
  return sum.to_vector<double>()[0];
}

double trace(const Tensor& x) {
  Tensor diagonal = x;
  if (x.rank() == 2) {
    const size_t size = size_of(x.dtype());
    const int64_t n = x.shape()[0];
    diagonal = Tensor::empty({n}, x.dtype(), x.backend());
    x.backend().copy_rows(n, size, x.data(), static_cast<size_t>(n + 1) * size, diagonal.mutable_data(),
                          size);
  }
  double sum = 0.0;
  for (const double element : diagonal.converted(DType::kF64).to_vector<double>()) sum += element;
  return sum;
}

Shape matrix_shape(const Shape& shape) {
  return {shape[0], shape.elements(1, shape.rank())};
}

}  // namespace lockstep
