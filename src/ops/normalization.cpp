// Layer norm, RMS norm and batch norm: fused kernels with references out of simple ops.
#include "lockstep/ops/normalization.h"

#include <fmt/format.h>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/gradient_room.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/operands.h"
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
  require_one_device(where, {&x, &gamma, &beta});
  if (x.rank() < 2 || x.elements() == 0 || !(gamma.shape() == Shape{x.shape().last()}) ||
      !(beta.shape() == gamma.shape()) || gamma.dtype() != accumulation_type(x.dtype()) ||
      beta.dtype() != gamma.dtype()) {
    refuse_operands(where,
                    fmt::format("x (...,C) with elements, {0} gamma (C) and {0} beta (C)",
                                name_of(accumulation_type(x.dtype()))),
                    {&x, &gamma, &beta});
  }
}

bool needs_widening(const Tensor& gamma, const Tensor& beta) {
  return accumulation_type(gamma.dtype()) != gamma.dtype() || accumulation_type(beta.dtype()) != beta.dtype();
}

// Inputs: x, gamma, beta, mean, 1/standard deviation.
class BatchNormNode final : public FusedNode {
 public:
  explicit BatchNormNode(double epsilon) : epsilon_(epsilon) {}
  const char* name() const override { return "batch_norm"; }
  Saved fused_saved() const override {
    return Saved::input(0) | Saved::input(1) | Saved::input(3) | Saved::input(4);
  }

  Tensor reference(std::span<const Tensor> in) const override {
    const Tensor matrix = widened(reshape(in[0], {in[0].shape().rows(), in[0].shape().last()}));
    const Tensor y = normalize_reference(matrix, in[1], in[2], 0, epsilon_);
    return cast(reshape(y, in[0].shape()), in[0].dtype());
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &x = inputs[0], &gamma = inputs[1];
    Tensor dx = x.empty_like(), dgamma = gradient_room(gamma), dbeta = gradient_room(inputs[2]);
    x.backend().batch_norm_backward(x.dtype(), x.shape().rows(), x.shape().last(), x.data(), gamma.data(),
                                    inputs[3].data(), inputs[4].data(), cotangent.data(), dx.mutable_data(),
                                    dgamma.mutable_data(), dbeta.mutable_data());
    if (result.wanted(0)) result[0] = std::move(dx);
    if (result.wanted(1)) result[1] = std::move(dgamma);
    if (result.wanted(2)) result[2] = std::move(dbeta);
  }

 private:
  double epsilon_;
};

NormArguments arguments_of(NormArguments::Kind kind, const Tensor& x, DType narrow, const Tensor& gamma,
                           double epsilon) {
  return {kind, x.dtype(), narrow, x.shape().rows(), x.shape().last(), gamma.data(), epsilon};
}

// Layer norm and RMS norm, whose result may be narrower than what they are given. Inputs: x, gamma, beta,
// mean, 1/standard deviation; of RMS norm neither beta nor mean.
class NormNode final : public FusedNode {
 public:
  NormNode(NormArguments::Kind kind, double epsilon, DType output)
      : kind_(kind), epsilon_(epsilon), output_(output) {}
  const char* name() const override { return layer() ? "layer_norm" : "rms_norm"; }
  Saved fused_saved() const override {
    return Saved::input(0) | Saved::input(1) | Saved::input(2, leaves_cheap()) | Saved::input(3) |
           Saved::input(4);
  }
  bool is_cheap() const override { return true; }
  Tensor made_again() const override {
    const Tensor& x = inputs[0];
    Tensor y = Tensor::empty(x.shape(), output_, x.backend());
    Tensor mean = layer() ? inputs[3].empty_like() : Tensor(), rstd = inputs[4].empty_like();
    x.backend().norm(arguments_of(kind_, x, output_, inputs[1], epsilon_), x.data(), nullptr,
                     layer() ? inputs[2].data() : nullptr, nullptr, y.mutable_data(),
                     layer() ? mean.mutable_data() : nullptr, rstd.mutable_data());
    return y;
  }

  Tensor reference(std::span<const Tensor> in) const override {
    if (layer()) {
      const Tensor matrix = widened(reshape(in[0], {in[0].shape().rows(), in[0].shape().last()}));
      const Tensor y = normalize_reference(matrix, in[1], in[2], 1, epsilon_);
      return cast(reshape(y, in[0].shape()), output_);
    }
    const Tensor wide = widened(in[0]);
    const Tensor deviation = sqrt(add_scalar(mean(square(wide), {-1}, true), epsilon_));
    return cast(multiply(divide(wide, deviation), in[1]), output_);
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &x = inputs[0], &gamma = inputs[1];
    Tensor others, narrow;
    if (result.wanted(0) && result.last(0)) {
      // As a rule x is a sum that others read too, and that hands its cotangent on in the type of the
      // products.
      if (result.gathered(0).defined()) others = result.take_gathered(0);
      const std::optional<DType> wants = x.node()->narrow_cotangent();
      if (wants && *wants == output_ && output_ != x.dtype())
        narrow = Tensor::empty(x.shape(), output_, x.backend());
    }
    Tensor dx = others.defined() && others.sole_owner() ? others : x.empty_like();
    Tensor dgamma = gradient_room(gamma), dbeta = layer() ? gradient_room(inputs[2]) : Tensor();
    x.backend().norm_backward(arguments_of(kind_, x, output_, gamma, epsilon_), x.data(),
                              layer() ? inputs[3].data() : nullptr, inputs[4].data(), cotangent.data(),
                              others.defined() ? others.data() : nullptr, dx.mutable_data(),
                              narrow.defined() ? narrow.mutable_data() : nullptr, dgamma.mutable_data(),
                              layer() ? dbeta.mutable_data() : nullptr);
    if (narrow.defined()) result.set_narrow(0, std::move(narrow));
    if (result.wanted(0)) result[0] = std::move(dx);
    if (result.wanted(1)) result[1] = std::move(dgamma);
    if (result.wanted(2)) result[2] = std::move(dbeta);
  }

 private:
  bool layer() const { return kind_ == NormArguments::Kind::kLayer; }

  NormArguments::Kind kind_;
  double epsilon_;
  DType output_;
};

// Of checked operands. y in the type `output`: that of x, or 16 bits beside fp32.
NormedSum norm_of(NormArguments::Kind kind, const Tensor& x, const Tensor& change, const Tensor& gamma,
                  const Tensor& beta, double epsilon, DType output) {
  const bool adds = change.defined() && change.dtype() == output && change.shape() == x.shape();
  if (change.defined() && !adds) return norm_of(kind, add(x, change), {}, gamma, beta, epsilon, output);
  const bool layer = kind == NormArguments::Kind::kLayer;
  NormedSum result{adds ? x.empty_like() : x, Tensor::empty(x.shape(), output, x.backend())};
  Tensor rstd = Tensor::empty({x.shape().rows()}, gamma.dtype(), x.backend());
  Tensor mean = layer ? rstd.empty_like() : Tensor();
  x.backend().norm(arguments_of(kind, x, output, gamma, epsilon), x.data(), adds ? change.data() : nullptr,
                   layer ? beta.data() : nullptr, adds ? result.sum.mutable_data() : nullptr,
                   result.y.mutable_data(), layer ? mean.mutable_data() : nullptr, rstd.mutable_data());
  if (adds) result.sum = as_sum(std::move(result.sum), x, change);
  result.y = record<NormNode>(std::move(result.y), {&result.sum, &gamma, &beta, &mean, &rstd}, kind, epsilon,
                              output);
  return result;
}

NormedSum layer_norm_of(const Tensor& x, const Tensor& change, const Tensor& gamma, const Tensor& beta,
                        double epsilon, DType output) {
  if (needs_widening(gamma, beta))
    return layer_norm_of(x, change, widened(gamma), widened(beta), epsilon, output);
  check_affine("layer_norm", x, gamma, beta);
  return norm_of(NormArguments::Kind::kLayer, x, change, gamma, beta, epsilon, output);
}

NormedSum rms_norm_of(const Tensor& x, const Tensor& change, const Tensor& gamma, double epsilon,
                      DType output) {
  require_one_device("rms_norm", {&x, &change, &gamma});
  if (x.rank() < 1 || x.elements() == 0 || !(gamma.shape() == Shape{x.shape().last()})) {
    refuse_operands("rms_norm", "x (...,C) with elements and gamma (C)", {&x, &gamma});
  }
  const Tensor scale = cast(gamma, accumulation_type(x.dtype()));
  return norm_of(NormArguments::Kind::kRms, x, change, scale, {}, epsilon, output);
}

// Of what products read; 16-bit numbers stay as they are.
DType operand_type(const Tensor& x) {
  return x.dtype() == DType::kF32 ? autocast_type(OpFamily::kProduct, x.dtype()) : x.dtype();
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) {
  return layer_norm_of(x, {}, gamma, beta, epsilon, x.dtype()).y;
}

Tensor rms_norm(const Tensor& x, const Tensor& gamma, double epsilon) {
  return rms_norm_of(x, {}, gamma, epsilon, x.dtype()).y;
}

NormedSum add_layer_norm(const Tensor& x, const Tensor& change, const Tensor& gamma, const Tensor& beta,
                         double epsilon) {
  return layer_norm_of(x, change, gamma, beta, epsilon, operand_type(x));
}

NormedSum add_rms_norm(const Tensor& x, const Tensor& change, const Tensor& gamma, double epsilon) {
  return rms_norm_of(x, change, gamma, epsilon, operand_type(x));
}

BatchNormResult batch_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) {
  if (needs_widening(gamma, beta)) return batch_norm(x, widened(gamma), widened(beta), epsilon);
  check_affine("batch_norm", x, gamma, beta);
  BatchNormResult result;
  Tensor y = x.empty_like();
  result.mean = gamma.empty_like();
  result.variance = gamma.empty_like();
  Tensor rstd = gamma.empty_like();
  x.backend().batch_norm(x.dtype(), x.shape().rows(), x.shape().last(), x.data(), gamma.data(), beta.data(),
                         epsilon, y.mutable_data(), result.mean.mutable_data(),
                         result.variance.mutable_data(), rstd.mutable_data());
  result.y = record<BatchNormNode>(std::move(y), {&x, &gamma, &beta, &result.mean, &rstd}, epsilon);
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
