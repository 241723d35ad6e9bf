// GPT: the model.
#include "lockstep/nn/gpt.h"

#include <fmt/format.h>

#include <cmath>
#include <mutex>
#include <numbers>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/kernels/math/portable.h"
#include "lockstep/nn/chain.h"
#include "lockstep/nn/refused_option.h"
#include "lockstep/ops/attention.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/dropout.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/gated.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/normalization.h"
#include "lockstep/ops/rotary.h"

namespace lockstep {

namespace {

Initializer normal(int64_t inputs, int64_t outputs, double deviation) {
  return {Initializer::Kind::kNormal, inputs, outputs, deviation};
}

// x W + b.
class Product {
 public:
  Product(int64_t inputs, int64_t outputs, bool bias, double deviation, const ModuleBuilder& builder)
      : weight_(builder.parameter("weight", {inputs, outputs}, normal(inputs, outputs, deviation))) {
    if (bias) bias_ = builder.parameter("bias", {outputs}, {});
  }
  const Tensor& weight(const ForwardContext& context) const { return context.parameter(weight_); }
  Tensor bias(const ForwardContext& context) const { return bias_ < 0 ? Tensor() : context.parameter(bias_); }
  Tensor operator()(const Tensor& x, const ForwardContext& context) const {
    return linear(x, weight(context), bias(context));
  }

 private:
  int weight_, bias_ = -1;
};

// Over the last axis.
class Norm final : public Module {
 public:
  Norm(int64_t features, GptNorm kind, const GptOptions& options, const ModuleBuilder& builder)
      : kind_(kind),
        epsilon_(options.norm_epsilon),
        gamma_(builder.parameter("gamma", {features}, {Initializer::Kind::kOnes})) {
    if (kind == GptNorm::kLayer && options.norm_bias) beta_ = builder.parameter("beta", {features}, {});
  }
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    const Tensor& gamma = context.parameter(gamma_);
    if (kind_ == GptNorm::kRms) return rms_norm(x, gamma, epsilon_);
    const Tensor beta = beta_ < 0 ? gamma.full_like(0.0) : context.parameter(beta_);
    return layer_norm(x, gamma, beta, epsilon_);
  }

 private:
  GptNorm kind_;
  double epsilon_;
  int gamma_, beta_ = -1;
};

// Turns by which number j of a half goes from one position to the next, in radians.
double turn_of(const RotaryOptions& options, int64_t j, int64_t head_size) {
  const double turn =
      math::portable::power(options.theta, -static_cast<double>(2 * j) / static_cast<double>(head_size));
  if (options.scaling == RotaryScaling::kNone) return turn;
  if (options.scaling == RotaryScaling::kLinear) return turn / options.factor;
  const double wavelength = 2.0 * std::numbers::pi / turn;
  const double context = static_cast<double>(options.original_context);
  if (wavelength > context / options.low_frequency) return turn / options.factor;
  if (wavelength < context / options.high_frequency) return turn;
  const double share =
      (context / wavelength - options.low_frequency) / (options.high_frequency - options.low_frequency);
  return (1.0 - share) * turn / options.factor + share * turn;
}

}  // namespace

void append_rotary(const RotaryOptions& options, int64_t head_size, int64_t position,
                   std::vector<double>& cosines, std::vector<double>& sines) {
  for (int64_t j = 0; j < head_size / 2; ++j) {
    const double half_turns =
        static_cast<double>(position) * (turn_of(options, j, head_size) / std::numbers::pi);
    cosines.push_back(math::portable::cos_pi(half_turns));
    sines.push_back(math::portable::sin_pi(half_turns));
  }
}

namespace {

// The tables of rotary positions, (positions, D/2) each; made when they are first asked for, where there is a
// device.
class RotaryTables {
 public:
  RotaryTables(const RotaryOptions& options, int64_t head_size) : options_(options), head_size_(head_size) {}
  std::pair<Tensor, Tensor> get(int64_t positions, DType dtype, Backend& backend) const {
    const std::scoped_lock lock(mutex_);
    const bool kept = cosines_.defined() && &cosines_.backend() == &backend && cosines_.dtype() == dtype &&
                      cosines_.shape()[0] == positions;
    if (!kept) make(positions, dtype, backend);
    return {cosines_, sines_};
  }

 private:
  void make(int64_t positions, DType dtype, Backend& backend) const {
    std::vector<double> cosines, sines;
    for (int64_t t = 0; t < positions; ++t) append_rotary(options_, head_size_, t, cosines, sines);
    const Shape shape{positions, head_size_ / 2};
    cosines_ = Tensor::from(shape, cosines, backend).converted(dtype);
    sines_ = Tensor::from(shape, sines, backend).converted(dtype);
  }

  RotaryOptions options_;
  int64_t head_size_;
  mutable std::mutex mutex_;
  mutable Tensor cosines_, sines_;
};

double deviation_at_sum(const GptOptions& options) {
  return options.depth_scaled ? options.deviation / std::sqrt(2.0 * static_cast<double>(options.layers))
                              : options.deviation;
}

class GptAttention {
 public:
  GptAttention(const GptOptions& options, const RotaryTables* rotary, const ModuleBuilder& builder)
      : options_(options),
        rotary_(rotary),
        qkv_(options.width, (options.heads + 2 * options.kv_heads) * options.head_size, options.qkv_bias,
             options.deviation, builder.scope("qkv")),
        output_(options.heads * options.head_size, options.width, options.output_bias,
                deviation_at_sum(options), builder.scope("output")) {
    if (!options.qk_norm) return;
    query_norm_.emplace(options.head_size, GptNorm::kRms, options, builder.scope("query_norm"));
    key_norm_.emplace(options.head_size, GptNorm::kRms, options, builder.scope("key_norm"));
  }

  Tensor forward(const Tensor& x, ForwardContext& context) const {
    const GptOptions& o = options_;
    const Tensor qkv = qkv_(x, context);
    const bool windowed = o.window > 0 && o.window < x.shape()[1];
    if (rotary_ == nullptr && !query_norm_ && o.kv_heads == o.heads && !windowed) {
      return output_(self_attention(qkv, o.heads, true), context);
    }
    const int64_t queries = o.heads * o.head_size, keys = o.kv_heads * o.head_size;
    const Tensor q = placed(slice(qkv, 2, 0, queries), o.heads, query_norm_, context);
    const Tensor k = placed(slice(qkv, 2, queries, queries + keys), o.kv_heads, key_norm_, context);
    const Tensor v = slice(qkv, 2, queries + keys, queries + 2 * keys);
    return output_(grouped_attention(q, k, v, o.heads, o.kv_heads, {o.window, {}}), context);
  }

 private:
  // Queries or keys (B,T,heads D) as their products are taken: normed and rotated.
  Tensor placed(const Tensor& x, int64_t heads, const std::optional<Norm>& norm,
                ForwardContext& context) const {
    if (rotary_ == nullptr && !norm) return x;
    Tensor y = reshape(x, {x.shape()[0], x.shape()[1], heads, options_.head_size});
    if (norm) y = norm->forward(y, context);
    if (rotary_ != nullptr) {
      const auto [cosines, sines] = rotary_->get(x.shape()[1], accumulation_type(y.dtype()), y.backend());
      y = rotary(y, cosines, sines);
    }
    return reshape(y, x.shape());
  }

  const GptOptions& options_;
  const RotaryTables* rotary_;
  Product qkv_, output_;
  std::optional<Norm> query_norm_, key_norm_;
};

class GptBlock final : public Module {
 public:
  GptBlock(const GptOptions& options, const RotaryTables* rotary, const ModuleBuilder& builder)
      : options_(options),
        attention_norm_(options.width, options.norm, options, builder.scope("attention_norm")),
        attention_(options, rotary, builder.scope("attention")),
        feedforward_norm_(options.width, options.norm, options, builder.scope("feedforward_norm")),
        expand_(options.width,
                options.activation == GptActivation::kSwiGlu ? 2 * options.feedforward : options.feedforward,
                options.feedforward_bias, options.deviation, builder.scope("expand")),
        contract_(options.feedforward, options.width, options.feedforward_bias, deviation_at_sum(options),
                  builder.scope("contract")) {}

  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    const Tensor h =
        with(x, attention_.forward(attention_norm_.forward(x, context), context), context.training);
    return with(h, feed_forward_of(feedforward_norm_.forward(h, context), context), context.training);
  }

 private:
  Tensor with(const Tensor& x, const Tensor& change, bool training) const {
    return add(x, training ? dropout(change, options_.dropout) : change);
  }

  Tensor feed_forward_of(const Tensor& x, const ForwardContext& context) const {
    switch (options_.activation) {
      case GptActivation::kSwiGlu:
        return contract_(swiglu(expand_(x, context)), context);
      case GptActivation::kReluSquared:
        return contract_(relu_squared(expand_(x, context)), context);
      case GptActivation::kGelu:
      case GptActivation::kGeluTanh:
        break;
    }
    return feed_forward(
        x, expand_.weight(context), expand_.bias(context),
        options_.activation == GptActivation::kGelu ? Activation::kGelu : Activation::kGeluTanh,
        contract_.weight(context), contract_.bias(context));
  }

  const GptOptions& options_;
  Norm attention_norm_;
  GptAttention attention_;
  Norm feedforward_norm_;
  Product expand_, contract_;
};

class Gpt final : public Module {
 public:
  Gpt(const GptOptions& options, int64_t classes, const ModuleBuilder& builder)
      : options_(options),
        classes_(classes),
        rotary_(options.rotary, options.head_size),
        tokens_(builder.scope("tokens").parameter("weight", {classes, options.width},
                                                  normal(classes, options.width, options.deviation))) {
    const bool learned = options.positions == GptPositions::kLearned;
    if (learned) {
      positions_ = builder.scope("positions")
                       .parameter("weight", {options.context, options.width},
                                  normal(options.context, options.width, options.deviation));
    }
    for (int64_t i = 0; i < options.layers; ++i) {
      const ModuleBuilder scope = builder.scope("blocks").scope(std::to_string(i));
      blocks_.append(scope.prefix() + " (block)",
                     std::make_unique<GptBlock>(options_, learned ? nullptr : &rotary_, scope));
    }
    blocks_.append("norm",
                   std::make_unique<Norm>(options.width, options.norm, options, builder.scope("norm")));
    head_ = options.tied_head
                ? tokens_
                : builder.scope("head").parameter("weight", {classes, options.width},
                                                  normal(classes, options.width, options.deviation));
  }
  Gpt(const Gpt&) = delete;
  Gpt& operator=(const Gpt&) = delete;

  int64_t index_limit() const override { return classes_; }

  Tensor forward(const Tensor& tokens, ForwardContext& context) const override {
    return reshape(head_logits(*class_head(tokens, context)),
                   {tokens.shape()[0], tokens.shape()[1], classes_});
  }

  std::optional<ClassHead> class_head(const Tensor& tokens, ForwardContext& context) const override {
    Tensor x = embedding(context.parameter(tokens_), tokens);
    if (positions_ >= 0) {
      x = add(x, slice(context.parameter(positions_), 0, 0, tokens.shape()[1]));
    }
    if (context.training) x = dropout(x, options_.dropout);
    const Tensor y = blocks_.forward(x, context);
    return ClassHead{reshape(y, {tokens.elements(), options_.width}), context.parameter(head_),
                     options_.soft_cap, options_.z_loss};
  }

 private:
  GptOptions options_;
  int64_t classes_;
  RotaryTables rotary_;
  int tokens_, positions_ = -1, head_ = -1;
  Chain blocks_;  // and the last norm
};

}  // namespace

std::unique_ptr<Module> make_gpt(const GptOptions& options, const DataShape& data,
                                 const ModuleBuilder& builder) {
  if (is_floating(data.input) || data.sample.rank() != 1 || !(data.positions == data.sample) ||
      data.classes < 1) {
    throw RefusedOption(
        "gpt", "type",
        fmt::format("takes windows of tokens (T) with a class at each of them, the data have "
                    "samples {} of {} with targets {} of {} classes",
                    data.sample.to_string(), name_of(data.input), data.positions.to_string(), data.classes));
  }
  return std::make_unique<Gpt>(resolved(options, data.sample[0]), data.classes, builder);
}

}  // namespace lockstep
