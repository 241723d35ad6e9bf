// Softmax family and losses.
#include "lockstep/ops/loss.h"

#include <fmt/format.h>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/operands.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

namespace {

// x minus its row maximum. The maximum is a constant here: the functions below do not depend on it.
Tensor shifted(const Tensor& x) {
  return subtract(x, max(x.detach(), -1, true));
}

class SoftmaxNode final : public FusedNode {
 public:
  explicit SoftmaxNode(bool log_form) : log_form_(log_form) {}
  const char* name() const override { return log_form_ ? "log_softmax" : "softmax"; }
  Saved fused_saved() const override { return Saved::output(); }

  Tensor reference(std::span<const Tensor> in) const override {
    const Tensor z = shifted(widened(in[0]));
    const Tensor e = exp(z), total = sum(e, {-1}, true);
    return cast(log_form_ ? subtract(z, log(total)) : divide(e, total), in[0].dtype());
  }

  void fused_vjp(const Tensor& output, const Tensor& cotangent, InputGradients& result) const override {
    Tensor dx = output.empty_like();
    if (dx.elements() > 0) {
      dx.backend().softmax_backward(log_form_, dx.dtype(), dx.shape().rows(), dx.shape().last(),
                                    output.data(), cotangent.data(), dx.mutable_data());
    }
    result[0] = std::move(dx);
  }

 private:
  bool log_form_;
};

Tensor softmax_of(bool log_form, const Tensor& x) {
  if (x.rank() == 0 || x.shape().last() == 0) {
    fail(ErrorKind::kUsage, "softmax: needs a last axis with elements, shape " + x.shape().to_string());
  }
  const DType type = autocast_type(OpFamily::kSoftmax, x.dtype());
  if (type != x.dtype()) return softmax_of(log_form, cast(x, type));
  Tensor y = x.empty_like();
  if (x.elements() > 0) {
    x.backend().softmax(log_form, x.dtype(), x.shape().rows(), x.shape().last(), x.data(), y.mutable_data());
  }
  return record<SoftmaxNode>(std::move(y), {&x}, log_form);
}

// (B, classes): 1 at the label. `dtype` is fp32, which has every number up to 2^24, or fp64.
Tensor one_hot(const Tensor& labels, int64_t classes, DType dtype) {
  const Tensor numbers = Tensor::arange(classes, dtype, labels.backend());
  const Tensor own = embedding(numbers.view({classes, 1}), labels.view({labels.elements()}));
  return equal(own, numbers.view({1, classes}));
}

// Inputs: logits, labels, weights (may be undefined), softmax(logits).
class CrossEntropyNode final : public FusedNode {
 public:
  const char* name() const override { return "cross_entropy"; }
  Saved fused_saved() const override { return Saved::input(1) | Saved::input(2) | Saved::input(3); }

  Tensor reference(std::span<const Tensor> in) const override {
    const Tensor picked = multiply(log_softmax(in[0]), one_hot(in[1], in[0].shape()[1], in[0].dtype()));
    const Tensor losses = negate(sum(picked, {1}));
    return in[2].defined() ? multiply(losses, in[2]) : losses;
  }

  void fused_vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    const Tensor &labels = inputs[1], &weights = inputs[2], &probabilities = inputs[3];
    Tensor dlogits = inputs[0].empty_like();
    if (dlogits.elements() > 0) {
      dlogits.backend().cross_entropy_backward(dlogits.dtype(), dlogits.shape()[0], dlogits.shape()[1],
                                               probabilities.data(), labels.data_as<int32_t>(),
                                               weights.defined() ? weights.data() : nullptr, cotangent.data(),
                                               dlogits.mutable_data());
    }
    result[0] = std::move(dlogits);
  }
};

void check_weights(const char* where, const Tensor& losses_like, const Tensor& weights) {
  if (weights.defined() &&
      (weights.elements() != losses_like.shape()[0] || weights.dtype() != losses_like.dtype())) {
    refuse_operands(where,
                    fmt::format("{} weights, as many as there are samples ({}),",
                                name_of(losses_like.dtype()), losses_like.shape()[0]),
                    {&weights});
  }
}

}  // namespace

Tensor softmax(const Tensor& x) {
  return softmax_of(false, x);
}
Tensor log_softmax(const Tensor& x) {
  return softmax_of(true, x);
}

Tensor log_sum_exp(const Tensor& x, bool keep_axis) {
  if (accumulation_type(x.dtype()) != x.dtype()) {  // rounded once, at the end
    return cast(log_sum_exp(widened(x), keep_axis), autocast_type(OpFamily::kSoftmax, x.dtype()));
  }
  const Tensor m = max(x.detach(), -1, true);
  const Tensor kept = add(m, log(sum(exp(subtract(x, m)), {-1}, true)));
  if (keep_axis) return kept;
  return reshape(kept, Shape(x.shape().extents().subspan(0, static_cast<size_t>(x.rank() - 1))));
}

Tensor cross_entropy(const Tensor& given, const Tensor& labels, const Tensor& weights) {
  require_one_device("cross_entropy", {&given, &labels, &weights});
  const Tensor logits = widened(given);
  if (logits.rank() != 2 || labels.elements() != logits.shape()[0] || labels.dtype() != DType::kI32 ||
      logits.shape()[1] == 0) {
    refuse_operands("cross_entropy", "logits (N,C) and int32 labels (N)", {&given, &labels});
  }
  check_weights("cross_entropy", logits, weights);
  require_indices(labels, logits.shape()[1], "cross_entropy: label");
  const int64_t rows = logits.shape()[0], columns = logits.shape()[1];
  Tensor losses = Tensor::empty({rows}, logits.dtype(), logits.backend());
  Tensor probabilities = logits.empty_like();
  if (rows > 0) {
    logits.backend().cross_entropy(logits.dtype(), rows, columns, logits.data(), labels.data_as<int32_t>(),
                                   weights.defined() ? weights.data() : nullptr, losses.mutable_data(),
                                   probabilities.mutable_data());
  }
  return record<CrossEntropyNode>(std::move(losses), {&logits, &labels, &weights, &probabilities});
}

Tensor logistic_loss(const Tensor& logits, const Tensor& targets, const Tensor& weights) {
  require_one_device("logistic_loss", {&logits, &targets, &weights});
  const Shape flat{logits.elements()};
  if (logits.rank() < 1 || logits.elements() != logits.shape()[0] ||
      targets.elements() != logits.elements()) {
    refuse_operands("logistic_loss", "one logit a sample and as many targets", {&logits, &targets});
  }
  const Tensor z = widened(reshape(logits, flat));
  check_weights("logistic_loss", z, weights);
  const Tensor losses = subtract(softplus(z), multiply(z, widened(reshape(targets, flat))));
  return weights.defined() ? multiply(losses, reshape(weights, flat)) : losses;
}

Tensor mean_squared_error(const Tensor& predictions, const Tensor& targets, const Tensor& weights) {
  require_one_device("mean_squared_error", {&predictions, &targets, &weights});
  if (predictions.rank() < 1 || predictions.elements() != targets.elements()) {
    refuse_operands("mean_squared_error", "predictions and as many targets", {&predictions, &targets});
  }
  const Tensor rows = widened(reshape(predictions, {predictions.shape()[0], -1}));
  check_weights("mean_squared_error", rows, weights);
  const Tensor losses = mean(square(subtract(rows, widened(reshape(targets, rows.shape())))), {1});
  return weights.defined() ? multiply(losses, reshape(weights, losses.shape())) : losses;
}

}  // namespace lockstep
