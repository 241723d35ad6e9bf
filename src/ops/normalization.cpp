// Layer norm, RMS norm and batch norm: fused kernels with references out of simple ops.
#include "lockstep/ops/normalization.h"

#include <fmt/format.h>

#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

// (x - mean)/sqrt(variance + epsilon) * gamma + beta with the statistics taken over one axis of the matrix x.
Tensor normalize_reference(const Tensor& x, const Tensor& gamma, const Tensor& beta, int axis,
                           double epsilon) {
  const Tensor centered = subtract(x, mean(x, {axis}, true));
  const Tensor variance = mean(square(centered), {axis}, true);
  return add(multiply(divide(centered, sqrt(add_scalar(variance, epsilon))), gamma), beta);
}

void check_affine(const char* where, const Tensor& x, const Tensor& gamma, const Tensor& beta) {
  if (x.rank() < 2 || x.elements() == 0 || !(gamma.shape() == Shape{x.shape().last()}) ||
      !(beta.shape() == gamma.shape()) || gamma.dtype() != accumulation_type(x.dtype()) ||
      beta.dtype() != gamma.dtype()) {
    fail(ErrorKind::kInternal,
         fmt::format("{}: x {} {} with gamma {} {} and beta {} {}", where, x.shape().to_string(),
                     name_of(x.dtype()), gamma.shape().to_string(), name_of(gamma.dtype()),
                     beta.shape().to_string(), name_of(beta.dtype())));
  }
}

bool needs_widening(const Tensor& gamma, const Tensor& beta) {
  return accumulation_type(gamma.dtype()) != gamma.dtype() || accumulation_type(beta.dtype()) != beta.dtype();
}

int64_t rows_of(const Tensor& x) {
  return x.shape().elements(0, x.rank() - 1);
}

// Both norms share everything but the axis of the statistics and the kernel. Inputs: x, gamma, beta, mean,
// 1/standard deviation.
class NormNode final : public FusedNode {
 public:
  NormNode(bool over_rows, double epsilon) : over_rows_(over_rows), epsilon_(epsilon) {}
  const char* name() const override { return over_rows_ ? "batch_norm" : "layer_norm"; }
  Saved fused_saved() const override {
    return Saved::input(0) | Saved::input(1) | Saved::input(3) | Saved::input(4);
  }

  Tensor reference(std::span<const Tensor> in) const override {
    const Tensor matrix = widened(reshape(in[0], {rows_of(in[0]), in[0].shape().last()}));
    const Tensor y = normalize_reference(matrix, in[1], in[2], over_rows_ ? 0 : 1, epsilon_);
    return cast(reshape(y, in[0].shape()), in[0].dtype());
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &x = inputs[0], &gamma = inputs[1];
    Tensor dx = x.empty_like(), dgamma = gamma.empty_like(), dbeta = gamma.empty_like();
    const auto kernel = over_rows_ ? &Backend::batch_norm_backward : &Backend::layer_norm_backward;
    (x.backend().*kernel)(x.dtype(), rows_of(x), x.shape().last(), x.data(), gamma.data(), inputs[3].data(),
                          inputs[4].data(), cotangent.data(), dx.mutable_data(), dgamma.mutable_data(),
                          dbeta.mutable_data());
    if (result.wanted(0)) result[0] = std::move(dx);
    if (result.wanted(1)) result[1] = std::move(dgamma);
    if (result.wanted(2)) result[2] = std::move(dbeta);
  }

 private:
  bool over_rows_;
  double epsilon_;
};

// Inputs: x, gamma, 1/root mean square.
class RmsNormNode final : public FusedNode {
 public:
  explicit RmsNormNode(double epsilon) : epsilon_(epsilon) {}
  const char* name() const override { return "rms_norm"; }
  Saved fused_saved() const override { return Saved::every_input(); }

  Tensor reference(std::span<const Tensor> in) const override {
    const Tensor wide = widened(in[0]);
    const Tensor deviation = sqrt(add_scalar(mean(square(wide), {-1}, true), epsilon_));
    return cast(multiply(divide(wide, deviation), in[1]), in[0].dtype());
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &x = inputs[0], &gamma = inputs[1];
    Tensor dx = x.empty_like(), dgamma = gamma.empty_like();
    x.backend().rms_norm_backward(x.dtype(), rows_of(x), x.shape().last(), x.data(), gamma.data(),
                                  inputs[2].data(), cotangent.data(), dx.mutable_data(),
                                  dgamma.mutable_data());
    if (result.wanted(0)) result[0] = std::move(dx);
    if (result.wanted(1)) result[1] = std::move(dgamma);
  }

 private:
  double epsilon_;
};

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) {
  if (needs_widening(gamma, beta)) return layer_norm(x, widened(gamma), widened(beta), epsilon);
  check_affine("layer_norm", x, gamma, beta);
  const int64_t rows = rows_of(x);
  Tensor y = x.empty_like();
  Tensor mean = Tensor::empty({rows}, gamma.dtype(), x.backend());
  Tensor rstd = mean.empty_like();
  x.backend().layer_norm(x.dtype(), rows, x.shape().last(), x.data(), gamma.data(), beta.data(), epsilon,
                         y.mutable_data(), mean.mutable_data(), rstd.mutable_data());
  return record<NormNode>(std::move(y), {&x, &gamma, &beta, &mean, &rstd}, false, epsilon);
}

Tensor rms_norm(const Tensor& x, const Tensor& gamma, double epsilon) {
  if (x.rank() < 1 || x.elements() == 0 || !(gamma.shape() == Shape{x.shape().last()})) {
    fail(ErrorKind::kInternal,
         fmt::format("rms_norm: x {} with gamma {}", x.shape().to_string(), gamma.shape().to_string()));
  }
  if (gamma.dtype() != accumulation_type(x.dtype())) {
    return rms_norm(x, cast(gamma, accumulation_type(x.dtype())), epsilon);
  }
  const int64_t rows = rows_of(x);
  Tensor y = x.empty_like(), rstd = Tensor::empty({rows}, gamma.dtype(), x.backend());
  x.backend().rms_norm(x.dtype(), rows, x.shape().last(), x.data(), gamma.data(), epsilon, y.mutable_data(),
                       rstd.mutable_data());
  return record<RmsNormNode>(std::move(y), {&x, &gamma, &rstd}, epsilon);
}

BatchNormResult batch_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) {
  if (needs_widening(gamma, beta)) return batch_norm(x, widened(gamma), widened(beta), epsilon);
  check_affine("batch_norm", x, gamma, beta);
  BatchNormResult result;
  Tensor y = x.empty_like();
  result.mean = gamma.empty_like();
  result.variance = gamma.empty_like();
  Tensor rstd = gamma.empty_like();
  x.backend().batch_norm(x.dtype(), rows_of(x), x.shape().last(), x.data(), gamma.data(), beta.data(),
                         epsilon, y.mutable_data(), result.mean.mutable_data(),
                         result.variance.mutable_data(), rstd.mutable_data());
  result.y = record<NormNode>(std::move(y), {&x, &gamma, &beta, &result.mean, &rstd}, true, epsilon);
  return result;
}

Tensor batch_norm_inference(const Tensor& x, const Tensor& given_gamma, const Tensor& given_beta,
                            const Tensor& mean, const Tensor& variance, double epsilon) {
  const Tensor gamma = widened(given_gamma), beta = widened(given_beta);
  check_affine("batch_norm", x, gamma, beta);
  const Tensor factor = divide(gamma, sqrt(add_scalar(widened(variance), epsilon)));
  const Tensor y = add(multiply(widened(x), factor), subtract(beta, multiply(widened(mean), factor)));
  return cast(y, x.dtype());
}

}  // namespace lockstep
