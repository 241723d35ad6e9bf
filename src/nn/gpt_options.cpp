// GPT: its options, presets and keys.
#include <fmt/format.h>

#include <array>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/gpt.h"
#include "lockstep/nn/layer.h"
#include "lockstep/nn/refused_option.h"

namespace lockstep {

namespace {

constexpr Range kLayers{1.0, 4096.0, false};
constexpr Range kSizeOrNone{0.0, 1048576.0, false};
constexpr int64_t kLargestHead = 256;  // what the kernels of GPUs take

template <class Value>
struct Named {
  const char* name;
  Value value;
};

constexpr std::array<Named<GptPositions>, 2> kPositions{
    {{"learned", GptPositions::kLearned}, {"rotary", GptPositions::kRotary}}};
constexpr std::array<Named<GptNorm>, 2> kNorms{{{"layer", GptNorm::kLayer}, {"rms", GptNorm::kRms}}};
constexpr std::array<Named<GptActivation>, 4> kActivations{{{"gelu", GptActivation::kGelu},
                                                            {"gelu_tanh", GptActivation::kGeluTanh},
                                                            {"swiglu", GptActivation::kSwiGlu},
                                                            {"relu_squared", GptActivation::kReluSquared}}};
constexpr std::array<Named<RotaryScaling>, 3> kScalings{
    {{"none", RotaryScaling::kNone}, {"linear", RotaryScaling::kLinear}, {"llama3", RotaryScaling::kLlama3}}};

template <class Value, size_t N>
Value read_named(Section& model, const char* key, Value fallback, const std::array<Named<Value>, N>& names,
                 const char* meaning) {
  std::vector<std::string> choices;
  std::string usual;
  for (const Named<Value>& named : names) {
    choices.emplace_back(named.name);
    if (named.value == fallback) usual = named.name;
  }
  const std::string chosen = model.text(key, usual, choices, meaning);
  for (const Named<Value>& named : names) {
    if (chosen == named.name) return named.value;
  }
  return fallback;
}

GptOptions gpt2(int64_t layers, int64_t width, int64_t heads) {
  GptOptions options;
  options.layers = layers;
  options.width = width;
  options.heads = heads;
  options.context = 1024;
  return options;
}

GptOptions llama(int64_t layers, int64_t width, int64_t heads, int64_t feedforward, int64_t context) {
  GptOptions options;
  options.layers = layers;
  options.width = width;
  options.heads = heads;
  options.feedforward = feedforward;
  options.context = context;
  options.positions = GptPositions::kRotary;
  options.norm = GptNorm::kRms;
  options.norm_bias = options.qkv_bias = options.output_bias = options.feedforward_bias = false;
  options.activation = GptActivation::kSwiGlu;
  return options;
}

GptOptions llama3(int64_t layers, int64_t width, int64_t feedforward, double factor, bool tied) {
  GptOptions options = llama(layers, width, 32, feedforward, 131072);
  options.kv_heads = 8;
  options.rotary = {500000.0, RotaryScaling::kLlama3, factor, 1.0, 4.0, 8192};
  options.tied_head = tied;
  return options;
}

// Radford et al. 2019; Karpathy's llama2.c; Llama 3.1 and 3.2, Grattafiori et al. 2024.
std::vector<Named<GptOptions>> presets() {
  return {{"gpt2_124m", gpt2(12, 768, 12)},
          {"gpt2_355m", gpt2(24, 1024, 16)},
          {"gpt2_774m", gpt2(36, 1280, 20)},
          {"gpt2_1558m", gpt2(48, 1600, 25)},
          {"llama_15m", llama(6, 288, 6, 768, 256)},
          {"llama_110m", llama(12, 768, 12, 2048, 1024)},
          {"llama3_1b", llama3(16, 2048, 8192, 32.0, true)},
          {"llama3_8b", llama3(32, 4096, 14336, 8.0, false)}};
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Named<GptOptions>& preset : presets()) names.emplace_back(preset.name);
  return names;
}

void require(bool fulfilled, const char* key, const std::string& rule) {
  if (!fulfilled) throw RefusedOption("gpt", key, rule);
}

void require_rotary(const RotaryOptions& rotary) {
  require_option("gpt", "rotary_theta", rotary.theta, {1.0, 1e12, true});
  require_option("gpt", "rotary_factor", rotary.factor, {1.0, 1e6, false});
  require(rotary.scaling != RotaryScaling::kNone || rotary.factor == 1.0, "rotary_factor",
          fmt::format("{} needs rotary_scaling", rotary.factor));
  require_option("gpt", "rotary_low_frequency", rotary.low_frequency, {0.0, 1e6, true});
  require(rotary.high_frequency > rotary.low_frequency && rotary.high_frequency <= 1e6,
          "rotary_high_frequency",
          fmt::format("must be above rotary_low_frequency, {}, and at most 1e6, got {}", rotary.low_frequency,
                      rotary.high_frequency));
  require_option("gpt", "rotary_original_context", static_cast<double>(rotary.original_context), kSize);
}

RotaryOptions read_rotary(Section& model, RotaryOptions options) {
  options.theta = model.real("rotary_theta", options.theta, {1.0, 1e12, true},
                             "base of the wavelengths of rotary positions");
  options.scaling =
      read_named(model, "rotary_scaling", options.scaling, kScalings,
                 "what lengthens wavelengths: linear all of them, llama3 those above the original context");
  options.factor =
      model.real("rotary_factor", options.factor, {1.0, 1e6, false}, "how many times longer they become");
  options.low_frequency =
      model.real("rotary_low_frequency", options.low_frequency, {0.0, 1e6, true},
                 "llama3: longer wavelengths than the original context over this are scaled in full");
  options.high_frequency =
      model.real("rotary_high_frequency", options.high_frequency, {0.0, 1e6, true},
                 "llama3: shorter ones than the original context over this are not scaled");
  options.original_context = model.integer("rotary_original_context", options.original_context, kSize,
                                           "llama3: positions that the model was first trained with");
  return options;
}

}  // namespace

GptOptions gpt_preset(const std::string& name) {
  for (const Named<GptOptions>& preset : presets()) {
    if (name == preset.name) return preset.value;
  }
  fail(ErrorKind::kUsage,
       fmt::format("gpt: preset: one of {} expected, got {}", fmt::join(preset_names(), ", "), name));
}

void require_used(const RotaryOptions& rotary) {
  if (rotary.scaling == RotaryScaling::kLlama3) return;
  // What a run writes down names every key: those at their defaults ask for nothing.
  const RotaryOptions defaults;
  for (const auto& [key, other] :
       {std::pair("rotary_low_frequency", rotary.low_frequency != defaults.low_frequency),
        {"rotary_high_frequency", rotary.high_frequency != defaults.high_frequency},
        {"rotary_original_context", rotary.original_context != defaults.original_context}}) {
    require(!other, key,
            fmt::format("goes with rotary_scaling = \"llama3\", which is \"{}\"",
                        rotary.scaling == RotaryScaling::kLinear ? "linear" : "none"));
  }
}

std::vector<ProductPart> gpt_parts(const GptOptions& resolved, const std::string& product) {
  const int64_t keys = resolved.kv_heads * resolved.head_size, gate = resolved.feedforward;
  if (product.ends_with("attention.qkv"))
    return {{"query", resolved.heads * resolved.head_size}, {"key", keys}, {"value", keys}};
  if (product.ends_with("expand") && resolved.activation == GptActivation::kSwiGlu)
    return {{"gate", gate}, {"up", gate}};
  return {};
}

GptOptions resolved(const GptOptions& given, int64_t window_length) {
  GptOptions options = given;
  const auto require_size = [](const char* key, int64_t value) {
    require_option("gpt", key, static_cast<double>(value), kSize);
  };
  require_option("gpt", "layers", static_cast<double>(options.layers), kLayers);
  require_size("width", options.width);
  require_size("heads", options.heads);
  if (options.kv_heads == 0) options.kv_heads = options.heads;
  require_size("kv_heads", options.kv_heads);
  require(options.heads % options.kv_heads == 0, "kv_heads",
          fmt::format("must divide the {} heads, got {}", options.heads, options.kv_heads));
  if (options.head_size == 0) {
    require(options.width % options.heads == 0, "heads",
            fmt::format("must divide the width {} unless head_size is given, got {}", options.width,
                        options.heads));
    options.head_size = options.width / options.heads;
  }
  require_size("head_size", options.head_size);
  require(options.head_size <= kLargestHead, "head_size",
          fmt::format("at most {}, got {}", kLargestHead, options.head_size));
  if (options.feedforward == 0) options.feedforward = 4 * options.width;
  require_size("feedforward", options.feedforward);
  if (options.context == 0) options.context = window_length;
  require_size("context", options.context);
  require(options.context >= window_length, "context",
          fmt::format("must hold the data's windows of {} tokens, got {}", window_length, options.context));
  if (options.positions == GptPositions::kRotary) {
    require(options.head_size % 2 == 0, "head_size",
            fmt::format("must be even for rotary positions, got {}", options.head_size));
    require_rotary(options.rotary);
  } else {
    require(options.rotary == RotaryOptions{}, "positions", "rotary options need positions = \"rotary\"");
  }
  require_option("gpt", "norm_epsilon", options.norm_epsilon, kPositive);
  require_dropout("gpt", "attention_dropout", options.attention_dropout);
  require_dropout("gpt", "residual_dropout", options.residual_dropout);
  require_dropout("gpt", "embedding_dropout", options.embedding_dropout);
  require_option("gpt", "window", static_cast<double>(options.window), kSizeOrNone);
  require_option("gpt", "soft_cap", options.soft_cap, kNonNegative);
  require_option("gpt", "z_loss", options.z_loss, kUnit);
  require_option("gpt", "deviation", options.deviation, kPositive);
  return options;
}

GptOptions read_gpt(Section& model) {
  std::vector<std::string> choices = preset_names();
  choices.insert(choices.begin(), "none");
  const std::string preset =
      model.text("preset", "none", choices, "gpt: a known size, which the other keys override");
  GptOptions options = preset == "none" ? GptOptions{} : gpt_preset(preset);
  options.layers = model.integer("layers", options.layers, kLayers, "gpt: blocks");
  options.width = model.integer("width", options.width, kSize, "gpt: features of a position");
  options.heads = model.integer("heads", options.heads, kSize, "gpt: heads of queries");
  options.kv_heads = model.integer("kv_heads", options.kv_heads, kSizeOrNone,
                                   "gpt: heads of keys and values, divides heads; 0: as many");
  options.head_size =
      model.integer("head_size", options.head_size, kSizeOrNone, "gpt: numbers of a head; 0: width / heads");
  options.feedforward =
      model.integer("feedforward", options.feedforward, kSizeOrNone,
                    "gpt: features between the two products of a block; 0: 4 times the width");
  options.context = model.integer("context", options.context, kSizeOrNone,
                                  "gpt: positions that the model knows; 0: those of the data's windows");
  options.positions =
      read_named(model, "positions", options.positions, kPositions, "gpt: how it knows where a token is");
  if (options.positions == GptPositions::kLearned) options.rotary = {};
  options.rotary = read_rotary(model, options.rotary);
  options.norm = read_named(model, "norm", options.norm, kNorms, "gpt: which norm precedes what blocks add");
  options.norm_epsilon = model.real("norm_epsilon", options.norm_epsilon, kPositive,
                                    "gpt: added to the variance or mean square");
  options.norm_bias = model.boolean("norm_bias", options.norm_bias && options.norm == GptNorm::kLayer,
                                    "gpt: layer norms add a learned bias; RMS norms have none");
  if (options.norm_bias && options.norm == GptNorm::kRms) {
    model.reject("norm_bias", "RMS norms have none, got true");
  }
  options.activation = read_named(model, "activation", options.activation, kActivations,
                                  "gpt: between the two products of a block");
  options.qkv_bias =
      model.boolean("qkv_bias", options.qkv_bias, "gpt: a learned bias of queries, keys and values");
  options.output_bias = model.boolean("output_bias", options.output_bias,
                                      "gpt: a learned bias of the product behind the heads");
  options.feedforward_bias = model.boolean("feedforward_bias", options.feedforward_bias,
                                           "gpt: learned biases of the two products of a block");
  options.qk_norm = model.boolean("qk_norm", options.qk_norm,
                                  "gpt: an RMS norm over each head's query and key before they are rotated");
  options.tied_head =
      model.boolean("tied_head", options.tied_head, "gpt: logits are products with the table of tokens");
  const double dropout = read_dropout(model, "dropout", 0.0);
  if (dropout >= 1.0) model.reject("dropout", fmt::format("must be < 1, got {}", dropout));
  options.attention_dropout = model.real("attention_dropout", dropout, kUnit,
                                         "gpt: dropout of the weights of attention, if not `dropout`");
  options.residual_dropout = model.real("residual_dropout", dropout, kUnit,
                                        "gpt: dropout of what each half of a block adds, if not `dropout`");
  options.embedding_dropout =
      model.real("embedding_dropout", dropout, kUnit, "gpt: dropout of the embedding, if not `dropout`");
  options.window = model.integer("window", options.window, kSizeOrNone,
                                 "gpt: latest positions that a query sees, its own with them; 0: all");
  options.soft_cap = model.real("soft_cap", options.soft_cap, kNonNegative,
                                "gpt: logits become cap tanh(logits / cap); 0: off");
  options.z_loss =
      model.real("z_loss", options.z_loss, kUnit,
                 "gpt: adds this times the square of log sum exp(logits) to each loss in training");
  options.deviation =
      model.real("deviation", options.deviation, kPositive, "gpt: standard deviation of initial weights");
  options.depth_scaled =
      model.boolean("depth_scaled", options.depth_scaled,
                    "gpt: that of the last products of each half of a block is divided by sqrt(2 layers)");
  return options;
}

}  // namespace lockstep
