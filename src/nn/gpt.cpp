// GPT: the model.
#include "lockstep/nn/gpt.h"

#include <fmt/format.h>

#include <algorithm>
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
  Product(int64_t inputs, int64_t outputs, bool bias, double deviation, const ModuleBuilder& builder,
          const std::vector<ProductPart>& parts = {})
      : weight_({inputs, outputs}, normal(inputs, outputs, deviation), builder, parts) {
    if (bias) bias_ = builder.parameter("bias", {outputs}, {});
  }
  bool adapted() const { return weight_.adapted(); }
  const Tensor& weight(const ForwardContext& context) const { return weight_.base(context); }
  Tensor bias(const ForwardContext& context) const { return bias_ < 0 ? Tensor() : context.parameter(bias_); }
  Tensor operator()(const Tensor& x, const ForwardContext& context) const {
    return weight_.with_change(linear(x, weight(context), bias(context)), x, context);
  }

 private:
  AdaptedWeight weight_;
  int bias_ = -1;
};

// Over the last axis, of what products read.
class Norm final : public Module {
 public:
  Norm(int64_t features, GptNorm kind, const GptOptions& options, const ModuleBuilder& builder)
      : kind_(kind),
        epsilon_(options.norm_epsilon),
        gamma_(builder.parameter("gamma", {features}, {Initializer::Kind::kOnes})) {
    if (kind == GptNorm::kLayer && options.norm_bias) beta_ = builder.parameter("beta", {features}, {});
  }
  Tensor forward(const Tensor& x, ForwardContext& context) const override { return of_sum(x, {}, context).y; }
  NormedSum of_sum(const Tensor& x, const Tensor& change, const ForwardContext& context) const {
    const Tensor& gamma = context.parameter(gamma_);
    if (kind_ == GptNorm::kRms) return add_rms_norm(x, change, gamma, epsilon_);
    const Tensor beta = beta_ < 0 ? gamma.full_like(0.0) : context.parameter(beta_);
    return add_layer_norm(x, change, gamma, beta, epsilon_);
  }

 private:
  GptNorm kind_;
  double epsilon_;
  int gamma_, beta_ = -1;
};

constexpr const char* kDocuments = "documents";

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

// What the positions of a window make, apart from tokens; made when it is first asked for, where there is a
// device.
class PositionTables {
 public:
  explicit PositionTables(const GptOptions& options) : options_(options) {}

  // Cosines and sines of rotary positions, (T, D/2) each.
  std::pair<Tensor, Tensor> rotary(int64_t positions, DType dtype, Backend& backend) const {
    const std::scoped_lock lock(mutex_);
    if (!kept(cosines_, positions, dtype, backend)) make_rotary(positions, dtype, backend);
    return {cosines_, sines_};
  }
  // Of the positions, (T) fp32: kept, since nothing may come from the host while a step is recorded.
  Tensor numbers(int64_t positions, Backend& backend) const {
    const std::scoped_lock lock(mutex_);
    if (!kept(numbers_, positions, DType::kF32, backend))
      numbers_ = Tensor::arange(positions, DType::kF32, backend);
    return numbers_;
  }
  // What positions begin to see, (T), where there is a window.
  Tensor first_keys(int64_t positions, Backend& backend) const {
    const std::scoped_lock lock(mutex_);
    if (!kept(first_keys_, positions, DType::kI32, backend)) {
      first_keys_ = window_first_keys(positions, options_.window, backend);
    }
    return first_keys_;
  }

 private:
  static bool kept(const Tensor& table, int64_t positions, DType dtype, Backend& backend) {
    return table.defined() && &table.backend() == &backend && table.dtype() == dtype &&
           table.shape()[0] == positions;
  }
  void make_rotary(int64_t positions, DType dtype, Backend& backend) const {
    const int64_t half = options_.head_size / 2;
    std::vector<double> cosines, sines;
    for (int64_t t = 0; t < positions; ++t)
      append_rotary(options_.rotary, options_.head_size, t, cosines, sines);
    const Shape shape{positions, half};
    cosines_ = Tensor::from(shape, cosines, backend).converted(dtype);
    sines_ = Tensor::from(shape, sines, backend).converted(dtype);
  }

  const GptOptions& options_;
  mutable std::mutex mutex_;
  mutable Tensor cosines_, sines_, first_keys_, numbers_;
};

// Which document each token of the batch is of, (B,T) int32; null: they are not kept apart.
const Tensor* documents_of(const ForwardContext& context) {
  return context.batch == nullptr ? nullptr : context.batch->find(kDocuments);
}

double deviation_at_sum(const GptOptions& options) {
  return options.depth_scaled ? options.deviation / std::sqrt(2.0 * static_cast<double>(options.layers))
                              : options.deviation;
}

class GptAttention {
 public:
  GptAttention(const GptOptions& options, const PositionTables& tables, const ModuleBuilder& builder)
      : options_(options),
        tables_(tables),
        qkv_(options.width, (options.heads + 2 * options.kv_heads) * options.head_size, options.qkv_bias,
             options.deviation, builder.scope("qkv"), gpt_parts(options, "attention.qkv")),
        output_(options.heads * options.head_size, options.width, options.output_bias,
                deviation_at_sum(options), builder.scope("output")) {
    if (!options.qk_norm) return;
    query_norm_.emplace(options.head_size, GptNorm::kRms, options, builder.scope("query_norm"));
    key_norm_.emplace(options.head_size, GptNorm::kRms, options, builder.scope("key_norm"));
  }

  Tensor forward(const Tensor& x, ForwardContext& context) const {
    const GptOptions& o = options_;
    const Tensor qkv = qkv_(x, context);
    const Tensor first = first_keys(x.shape()[1], x.backend(), context);
    const double dropped = context.training ? o.attention_dropout : 0.0;
    if (!query_norm_) {
      return output_(grouped_self_attention(rotated(qkv, o.heads + 2 * o.kv_heads, o.heads + o.kv_heads),
                                            o.heads, o.kv_heads, first, dropped),
                     context);
    }
    const int64_t queries = o.heads * o.head_size, keys = o.kv_heads * o.head_size;
    const Tensor q = placed(slice(qkv, 2, 0, queries), o.heads, *query_norm_, context);
    const Tensor k = placed(slice(qkv, 2, queries, queries + keys), o.kv_heads, *key_norm_, context);
    const Tensor v = slice(qkv, 2, queries + keys, queries + 2 * keys);
    return output_(grouped_attention(q, k, v, o.heads, o.kv_heads, first, dropped), context);
  }

 private:
  // (T) or (B,T); undefined where each query sees all keys up to its own.
  Tensor first_keys(int64_t positions, Backend& backend, const ForwardContext& context) const {
    const int64_t window = options_.window < positions ? options_.window : 0;
    if (const Tensor* const documents = documents_of(context); documents != nullptr) {
      return document_first_keys(*documents, window);
    }
    return window == 0 ? Tensor() : tables_.first_keys(positions, backend);
  }

  // x (B,T,heads D) with the first heads turned, where positions are rotary.
  Tensor rotated(const Tensor& x, int64_t heads, int64_t turned) const {
    if (options_.positions != GptPositions::kRotary) return x;
    const int64_t positions = x.shape()[1];
    const auto [cosines, sines] = tables_.rotary(positions, accumulation_type(x.dtype()), x.backend());
    const Tensor y =
        rotary(reshape(x, {x.shape()[0], positions, heads, options_.head_size}), cosines, sines, turned);
    return reshape(y, x.shape());
  }

  // Queries or keys (B,T,heads D) as their products are taken: normed and rotated.
  Tensor placed(const Tensor& x, int64_t heads, const Norm& norm, ForwardContext& context) const {
    const Tensor y = reshape(x, {x.shape()[0], x.shape()[1], heads, options_.head_size});
    return rotated(reshape(norm.forward(y, context), x.shape()), heads, heads);
  }

  const GptOptions& options_;
  const PositionTables& tables_;
  Product qkv_, output_;
  std::optional<Norm> query_norm_, key_norm_;
};

class GptBlock final : public Module {
 public:
  GptBlock(const GptOptions& options, const PositionTables& tables, const ModuleBuilder& builder)
      : options_(options),
        attention_norm_(options.width, options.norm, options, builder.scope("attention_norm")),
        attention_(options, tables, builder.scope("attention")),
        feedforward_norm_(options.width, options.norm, options, builder.scope("feedforward_norm")),
        expand_(options.width,
                options.activation == GptActivation::kSwiGlu ? 2 * options.feedforward : options.feedforward,
                options.feedforward_bias, options.deviation, builder.scope("expand"),
                gpt_parts(options, "expand")),
        contract_(options.feedforward, options.width, options.feedforward_bias, deviation_at_sum(options),
                  builder.scope("contract")) {}

  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    const Tensor change = attention_.forward(attention_norm_.forward(x, context), context);
    const NormedSum h = feedforward_norm_.of_sum(x, dropped(change, context), context);
    return add(h.sum, dropped(feed_forward_of(h.y, context), context));
  }

 private:
  Tensor dropped(const Tensor& change, const ForwardContext& context) const {
    return context.training ? dropout(change, options_.residual_dropout) : change;
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
    const bool exact = options_.activation == GptActivation::kGelu;
    if (expand_.adapted() || contract_.adapted()) {
      const Tensor h = expand_(x, context);
      return contract_(exact ? gelu(h) : gelu_tanh(h), context);
    }
    return feed_forward(x, expand_.weight(context), expand_.bias(context),
                        exact ? Activation::kGelu : Activation::kGeluTanh, contract_.weight(context),
                        contract_.bias(context));
  }

  const GptOptions& options_;
  Norm attention_norm_;
  GptAttention attention_;
  Norm feedforward_norm_;
  Product expand_, contract_;
};

class Gpt final : public Module {
 public:
  Gpt(const GptOptions& options, int64_t length, int64_t classes, const ModuleBuilder& builder)
      : options_(options),
        length_(length),
        classes_(classes),
        tables_(options_),
        tokens_(builder.scope("tokens").parameter("weight", {classes, options.width},
                                                  normal(classes, options.width, options.deviation))) {
    if (options.positions == GptPositions::kLearned) {
      positions_ = builder.scope("positions")
                       .parameter("weight", {options.context, options.width},
                                  normal(options.context, options.width, options.deviation));
    }
    for (int64_t i = 0; i < options.layers; ++i) {
      const ModuleBuilder scope = builder.scope("blocks").scope(std::to_string(i));
      blocks_.append(scope.prefix() + " (block)", std::make_unique<GptBlock>(options_, tables_, scope));
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
  bool reads(const std::string& field) const override { return field == kDocuments; }
  double operations() const override;

  Tensor forward(const Tensor& tokens, ForwardContext& context) const override {
    return reshape(head_logits(*class_head(tokens, context)),
                   {tokens.shape()[0], tokens.shape()[1], classes_});
  }

  std::optional<ClassHead> class_head(const Tensor& tokens, ForwardContext& context) const override {
    Tensor x = embedding(context.parameter(tokens_), tokens);
    if (positions_ >= 0) x = add(x, positions_of(tokens, context));
    if (context.training) x = dropout(x, options_.embedding_dropout);
    const Tensor y = blocks_.forward(x, context);
    return ClassHead{reshape(y, {tokens.elements(), options_.width}), context.parameter(head_),
                     options_.soft_cap, options_.z_loss};
  }

 private:
  // What the table of positions adds: (T,C), or (B,T,C) counted from where each document begins.
  Tensor positions_of(const Tensor& tokens, const ForwardContext& context) const {
    const Tensor& table = context.parameter(positions_);
    const int64_t length = tokens.shape()[1];
    const Tensor* const documents = documents_of(context);
    if (documents == nullptr) return slice(table, 0, 0, length);
    const Tensor begins = document_first_keys(*documents).converted(DType::kF32);
    Tensor places = subtract(tables_.numbers(length, tokens.backend()), begins).converted(DType::kI32);
    places.set_index_range({0, static_cast<int32_t>(length - 1)});
    return embedding(table, places);
  }

  GptOptions options_;
  int64_t length_, classes_;  // of the data's windows; of tokens
  PositionTables tables_;
  int tokens_, positions_ = -1, head_ = -1;
  Chain blocks_;  // and the last norm
};

double Gpt::operations() const {
  const GptOptions& o = options_;
  const int64_t expanded = (o.activation == GptActivation::kSwiGlu ? 3 : 2) * o.feedforward;
  const int64_t block = o.width * (2 * (o.heads + o.kv_heads) * o.head_size + expanded);
  int64_t pairs = 0;  // of queries and keys
  for (int64_t t = 1; t <= length_; ++t) pairs += o.window == 0 ? t : std::min(t, o.window);
  const int64_t products = length_ * (o.layers * block + classes_ * o.width);
  return 2.0 * static_cast<double>(products) +
         4.0 * static_cast<double>(o.layers * pairs) * static_cast<double>(o.heads * o.head_size);
}

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
  require_used(options.rotary);
  return std::make_unique<Gpt>(resolved(options, data.sample[0]), data.sample[0], data.classes, builder);
}

}  // namespace lockstep
