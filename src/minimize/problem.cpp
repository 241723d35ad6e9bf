// Problems from functions.
#include "lockstep/minimize/problem.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"

namespace lockstep {

void Problem::hessian_product(const RealVector&, const RealVector&, RealVector&) {
  fail(ErrorKind::kUsage, fmt::format("problem of {} parameters: it has no second derivatives", size()));
}

void Problem::gauss_newton_product(const RealVector& x, const RealVector& v, RealVector& out) {
  if (residual_count() == 0) {
    fail(ErrorKind::kUsage, fmt::format("problem of {} parameters: it has no Gauss-Newton matrix", size()));
  }
  RealVector r;
  DenseMatrix jacobian(residual_count(), size());
  residuals(x, r, &jacobian);
  out = multiply_transposed(jacobian, multiply(jacobian, v));
}

void Problem::gauss_newton_diagonal(const RealVector& x, RealVector& out) {
  RealVector r;
  DenseMatrix jacobian(residual_count(), size());
  residuals(x, r, &jacobian);
  out = column_squares(jacobian);
}

void Problem::residuals(const RealVector&, RealVector&, DenseMatrix*) {
  fail(ErrorKind::kUsage, fmt::format("problem of {} parameters: it is not a sum of squares", size()));
}

double CallbackProblem::value(const RealVector& x) {
  if (only_value) return only_value(x);
  RealVector unused;
  return value_and_gradient(x, unused);
}

double CallbackProblem::value_and_gradient(const RealVector& x, RealVector& g) {
  g.resize(static_cast<size_t>(n));
  const double result = gradient(x, g);
  if (std::ssize(g) != n) {
    fail(ErrorKind::kUsage,
         fmt::format("problem of {} parameters: its function has left a gradient of {}", n, std::ssize(g)));
  }
  return result;
}

void CallbackProblem::hessian_product(const RealVector& x, const RealVector& v, RealVector& out) {
  if (!hessian) return Problem::hessian_product(x, v, out);
  hessian(x, v, out);
}

double LeastSquaresProblem::value(const RealVector& x) {
  RealVector r;
  residuals_(x, r, nullptr);
  return 0.5 * dot(r, r);
}

double LeastSquaresProblem::value_and_gradient(const RealVector& x, RealVector& gradient) {
  RealVector r;
  DenseMatrix jacobian(count_, size_);
  residuals_(x, r, &jacobian);
  gradient = multiply_transposed(jacobian, r);
  return 0.5 * dot(r, r);
}

FunctionProblem::FunctionProblem(int64_t size, Scalar function, Backend& backend)
    : size_(size),
      function_([scalar = std::move(function)](std::span<const Tensor> inputs) { return scalar(inputs[0]); }),
      backend_(backend) {}

Tensor FunctionProblem::tensor(const RealVector& x) const {
  return Tensor::from({size_}, x, backend_);
}

double FunctionProblem::value(const RealVector& x) {
  const Tensor at = tensor(x);
  return function_(std::span(&at, 1)).item();
}

double FunctionProblem::value_and_gradient(const RealVector& x, RealVector& gradient) {
  const Tensor at = tensor(x);
  const auto result = value_and_grad(function_, std::span(&at, 1));
  gradient = result.second[0].to_vector<double>();
  return result.first.item();
}

void FunctionProblem::hessian_product(const RealVector& x, const RealVector& v, RealVector& out) {
  if (!second_ || second_at_ != x) {
    const Tensor at = tensor(x);
    second_.emplace(function_, std::span(&at, 1));
    second_at_ = x;
  }
  const Tensor direction = tensor(v);
  out = second_->times(std::span(&direction, 1))[0].to_vector<double>();
}

}  // namespace lockstep
