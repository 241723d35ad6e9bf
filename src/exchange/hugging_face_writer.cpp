// Writing config.json.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lockstep/core/error.h"
#include "lockstep/exchange/hugging_face_config.h"

namespace lockstep {

namespace {

using nlohmann::ordered_json;

[[noreturn]] void refuse(const char* option, const std::string& rule) {
  fail(ErrorKind::kUsage,
       fmt::format("model.{}: no model of transformers that is known here {}", option, rule));
}

HuggingFaceModel as_gpt2(HuggingFaceModel model) {
  GptOptions& options = model.options;
  model.family = ModelFamily::kGpt2;
  if (options.norm != GptNorm::kLayer) refuse("norm", "has RMS norms and learned positions");
  if (options.activation == GptActivation::kSwiGlu) refuse("activation", "has SwiGLU and learned positions");
  if (options.kv_heads != options.heads) refuse("kv_heads", "groups its heads and learns positions");
  if (options.heads * options.head_size != options.width)
    refuse("head_size", "learns positions and has other heads than width / heads");
  if (options.qk_norm) refuse("qk_norm", "norms queries and keys and learns positions");
  if (options.window > 0) refuse("window", "has a window and learned positions");
  options.norm_bias = options.qkv_bias = options.output_bias = options.feedforward_bias = true;
  return model;
}

HuggingFaceModel as_llama(HuggingFaceModel model) {
  GptOptions& options = model.options;
  if (options.norm != GptNorm::kRms) refuse("norm", "has layer norms and rotary positions");
  if (options.activation != GptActivation::kSwiGlu)
    refuse("activation", "has rotary positions without SwiGLU");
  options.norm_bias = false;
  const bool of_queries = options.qkv_bias && !options.output_bias;
  if (options.qk_norm) {
    model.family = ModelFamily::kQwen3;
  } else if (of_queries && !options.feedforward_bias) {
    model.family = ModelFamily::kQwen2;
  } else {
    model.family = options.window > 0 ? ModelFamily::kMistral : ModelFamily::kLlama;
  }
  const bool bias = options.qkv_bias || options.output_bias;
  if (model.family == ModelFamily::kMistral && bias) refuse("window", "has a window and biases of outputs");
  if (model.family != ModelFamily::kLlama && options.feedforward_bias)
    refuse("feedforward_bias", "has it together with a window or qk_norm");
  if (model.family != ModelFamily::kQwen2) options.qkv_bias = options.output_bias = bias;
  return model;
}

ordered_json rotary_parameters(const RotaryOptions& rotary) {
  ordered_json parameters = {{"rope_type", "default"}};
  if (rotary.scaling == RotaryScaling::kLinear)
    parameters = {{"rope_type", "linear"}, {"factor", rotary.factor}};
  if (rotary.scaling == RotaryScaling::kLlama3) {
    parameters = {{"rope_type", "llama3"},
                  {"factor", rotary.factor},
                  {"low_freq_factor", rotary.low_frequency},
                  {"high_freq_factor", rotary.high_frequency},
                  {"original_max_position_embeddings", rotary.original_context}};
  }
  return parameters;
}

void put_gpt2(ordered_json& config, const GptOptions& options) {
  config["n_layer"] = options.layers;
  config["n_embd"] = options.width;
  config["n_head"] = options.heads;
  config["n_inner"] = options.feedforward;
  config["n_positions"] = options.context;
  config["n_ctx"] = options.context;
  config["activation_function"] = options.activation == GptActivation::kGelu       ? "gelu"
                                  : options.activation == GptActivation::kGeluTanh ? "gelu_new"
                                                                                   : "relu2";
  config["layer_norm_epsilon"] = options.norm_epsilon;
  config["attn_pdrop"] = options.attention_dropout;
  config["resid_pdrop"] = options.residual_dropout;
  config["embd_pdrop"] = options.embedding_dropout;
  config["scale_attn_weights"] = true;
}

void put_llama(ordered_json& config, ModelFamily family, const GptOptions& options) {
  config["num_hidden_layers"] = options.layers;
  config["hidden_size"] = options.width;
  config["num_attention_heads"] = options.heads;
  config["num_key_value_heads"] = options.kv_heads;
  config["head_dim"] = options.head_size;
  config["intermediate_size"] = options.feedforward;
  config["max_position_embeddings"] = options.context;
  config["rms_norm_eps"] = options.norm_epsilon;
  config["hidden_act"] = "silu";
  config["attention_dropout"] = options.attention_dropout;
  ordered_json parameters = rotary_parameters(options.rotary);
  config["rope_theta"] = options.rotary.theta;
  config["rope_scaling"] = options.rotary.scaling == RotaryScaling::kNone ? ordered_json() : parameters;
  parameters["rope_theta"] = options.rotary.theta;
  config["rope_parameters"] = parameters;
  if (family == ModelFamily::kLlama || family == ModelFamily::kQwen3)
    config["attention_bias"] = options.output_bias;
  if (family == ModelFamily::kLlama) {
    config["mlp_bias"] = options.feedforward_bias;
    return;
  }
  config["sliding_window"] = options.window > 0 ? ordered_json(options.window) : ordered_json();
  if (family == ModelFamily::kMistral) return;
  config["use_sliding_window"] = options.window > 0;
  config["max_window_layers"] = options.window > 0 ? 0 : options.layers;
}

}  // namespace

HuggingFaceModel hugging_face_model(const GptOptions& resolved, int64_t vocabulary) {
  HuggingFaceModel model;
  model.options = resolved;
  model.vocabulary = vocabulary;
  if (resolved.soft_cap > 0.0) refuse("soft_cap", "caps its logits");
  return resolved.positions == GptPositions::kLearned ? as_gpt2(std::move(model))
                                                      : as_llama(std::move(model));
}

std::string hugging_face_config(const HuggingFaceModel& model, DType dtype) {
  const FamilyNames& names = *std::ranges::find(kFamilyNames, model.family, &FamilyNames::family);
  ordered_json config;
  config["architectures"] = ordered_json::array({names.architecture});
  config["model_type"] = names.type;
  config["vocab_size"] = model.vocabulary;
  if (model.family == ModelFamily::kGpt2) {
    put_gpt2(config, model.options);
  } else {
    put_llama(config, model.family, model.options);
  }
  config["initializer_range"] = model.options.deviation;
  config["tie_word_embeddings"] = model.options.tied_head;
  config["bos_token_id"] = model.begin ? ordered_json(*model.begin) : ordered_json();
  config["eos_token_id"] = model.ends.empty()       ? ordered_json()
                           : model.ends.size() == 1 ? ordered_json(model.ends.front())
                                                    : ordered_json(model.ends);
  config["torch_dtype"] = dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
  config["use_cache"] = true;
  return config.dump(2) + "\n";
}

}  // namespace lockstep
