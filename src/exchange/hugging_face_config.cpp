// Reading config.json.
#include "lockstep/exchange/hugging_face_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/exchange/config_reader.h"

namespace lockstep {

using nlohmann::json;

namespace {

// What does not change what a model computes from given weights, in evaluation.
constexpr std::array kWithoutMeaning = {"architectures",
                                        "transformers_version",
                                        "torch_dtype",
                                        "dtype",
                                        "use_cache",
                                        "pad_token_id",
                                        "initializer_range",
                                        "reorder_and_upcast_attn",
                                        "summary_activation",
                                        "summary_first_dropout",
                                        "summary_proj_to_labels",
                                        "summary_type",
                                        "summary_use_proj",
                                        "task_specific_params",
                                        "gradient_checkpointing",
                                        "pretraining_tp",
                                        "output_attentions",
                                        "output_hidden_states",
                                        "output_past",
                                        "return_dict",
                                        "id2label",
                                        "label2id",
                                        "problem_type",
                                        "auto_map",
                                        "finetuning_task",
                                        "predict_special_tokens",
                                        "unsloth_fixed",
                                        "unsloth_version",
                                        "chunk_size_feed_forward",
                                        "mlp_dropout"};

std::vector<int32_t> token_ids(ConfigReader& config, const char* key, int64_t vocabulary) {
  std::vector<int32_t> ids;
  const json* value = config.find(key);
  if (value == nullptr) return ids;
  for (const json& id : value->is_array() ? *value : json::array({*value})) {
    // -1 and ids beyond the table stand for "none" in some files.
    if (!id.is_number_integer()) config.refuse(key, *value, "must be a token or a list of tokens");
    if (const auto token = id.get<int64_t>(); token >= 0 && token < vocabulary)
      ids.push_back(static_cast<int32_t>(token));
  }
  return ids;
}

GptActivation read_activation(ConfigReader& config) {
  const std::string name = config.text("activation_function", "gelu_new");
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    return GptActivation::kGeluTanh;
  if (name == "gelu") return GptActivation::kGelu;
  if (name == "relu2") return GptActivation::kReluSquared;
  config.refuse("activation_function", name, "must be gelu_new, gelu_pytorch_tanh, gelu or relu2");
}

// Of training alone; what is absent has the library's own default.
double read_dropout(ConfigReader& config, const char* key, double fallback) {
  const double probability = config.real(key, fallback);
  if (!(probability >= 0.0 && probability < 1.0)) config.refuse(key, probability, "must be in [0, 1)");
  return probability;
}

void read_gpt2(ConfigReader& config, HuggingFaceModel& model) {
  GptOptions& options = model.options;
  options.layers = config.integer("n_layer");
  options.width = config.integer("n_embd");
  options.heads = config.integer("n_head");
  options.feedforward = config.integer("n_inner", 4 * options.width);
  const int64_t old = config.integer("n_ctx", int64_t{1} << 31);  // of files before n_positions
  options.context = config.has("n_positions") || !config.has("n_ctx") ? config.integer("n_positions") : old;
  options.norm_epsilon = config.real("layer_norm_epsilon", 1e-5);
  options.activation = read_activation(config);
  options.tied_head = config.boolean("tie_word_embeddings", true);
  options.attention_dropout = read_dropout(config, "attn_pdrop", 0.1);
  options.residual_dropout = read_dropout(config, "resid_pdrop", 0.1);
  options.embedding_dropout = read_dropout(config, "embd_pdrop", 0.1);
  config.require_boolean("scale_attn_weights", true);
  config.require_boolean("scale_attn_by_inverse_layer_idx", false);
  config.require_boolean("add_cross_attention", false);
}

RotaryOptions rotary_of(ConfigReader scaling, double theta, int64_t context) {
  RotaryOptions rotary;
  rotary.theta = scaling.real("rope_theta", theta);
  const std::string older = scaling.text("type", "default");
  const std::string type = scaling.text("rope_type", older);
  if (scaling.real("partial_rotary_factor", 1.0) != 1.0)
    scaling.refuse("partial_rotary_factor", scaling.real("partial_rotary_factor", 1.0), "only 1 is computed");
  if (type == "linear") {
    rotary.scaling = RotaryScaling::kLinear;
    rotary.factor = scaling.real("factor");
  } else if (type == "llama3") {
    rotary.scaling = RotaryScaling::kLlama3;
    rotary.factor = scaling.real("factor");
    rotary.low_frequency = scaling.real("low_freq_factor");
    rotary.high_frequency = scaling.real("high_freq_factor");
    rotary.original_context = scaling.integer("original_max_position_embeddings", context);
  } else if (type != "default") {
    scaling.refuse("rope_type", type, "must be default, linear or llama3");
  }
  scaling.reject_unknown({});
  return rotary;
}

// transformers 4: rope_theta and rope_scaling; 5: rope_parameters with both. Files for both versions have the
// same twice. Where they do not, either version takes rope_scaling, which somebody has changed or forgotten.
RotaryOptions read_rotary(ConfigReader& config, int64_t context) {
  const double theta = config.real("rope_theta", 10000.0);
  const json *older = config.find("rope_scaling"), *newer = config.find("rope_parameters");
  const RotaryOptions rotary =
      rotary_of(config.table(newer != nullptr ? "rope_parameters" : "rope_scaling"), theta, context);
  if (newer == nullptr || older == nullptr || older->empty()) return rotary;
  if (!(rotary_of(config.table("rope_scaling"), theta, context) == rotary)) {
    config.refuse("rope_scaling", *older,
                  fmt::format("with rope_theta {} must mean the same as rope_parameters {}, or not be there",
                              theta, newer->dump()));
  }
  return rotary;
}

// All layers see as far: layer_types of transformers 5, or the keys of Qwen and Mistral.
int64_t read_window(ConfigReader& config, ModelFamily family, int64_t layers) {
  const int64_t window = config.integer(
      "sliding_window", family == ModelFamily::kMistral && !config.has("sliding_window") ? 4096 : int64_t{0});
  int64_t windowed = window > 0 ? layers : 0;
  if (family != ModelFamily::kMistral) {
    const json* full = config.find("max_window_layers");
    int64_t first = 28;
    if (full != nullptr) {
      if (!full->is_number_unsigned()) config.refuse("max_window_layers", *full, "must be a whole number");
      first = full->get<int64_t>();
    }
    if (!config.boolean("use_sliding_window", false)) {
      windowed = 0;
    } else {
      windowed = std::max<int64_t>(0, layers - first);
    }
  }
  if (const json* types = config.find("layer_types")) {
    if (!types->is_array() || std::ssize(*types) != layers)
      config.refuse("layer_types", *types, fmt::format("must be an array of {}", layers));
    windowed = 0;
    for (const json& type : *types) {
      if (type == "sliding_attention") {
        ++windowed;
      } else if (type != "full_attention") {
        config.refuse("layer_types", type, "must be full_attention or sliding_attention");
      }
    }
  }
  if (windowed != 0 && windowed != layers) {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: sliding_window: {} of {} layers have it: all or none are computed", config.where(),
                     windowed, layers));
  }
  if (windowed > 0 && window == 0) config.missing("sliding_window");
  return windowed > 0 ? window : 0;
}

void read_llama(ConfigReader& config, HuggingFaceModel& model) {
  GptOptions& options = model.options;
  const ModelFamily family = model.family;
  options.positions = GptPositions::kRotary;
  options.norm = GptNorm::kRms;
  options.norm_bias = false;
  options.activation = GptActivation::kSwiGlu;
  options.layers = config.integer("num_hidden_layers");
  options.width = config.integer("hidden_size");
  options.heads = config.integer("num_attention_heads");
  options.kv_heads = config.integer("num_key_value_heads", options.heads);
  options.head_size = config.integer(
      "head_dim", family == ModelFamily::kQwen3 ? 128 : std::max<int64_t>(1, options.width / options.heads));
  options.feedforward = config.integer("intermediate_size");
  options.context = config.integer("max_position_embeddings");
  options.norm_epsilon = config.real("rms_norm_eps", 1e-6);
  if (const std::string activation = config.text("hidden_act", "silu"); activation != "silu")
    config.refuse("hidden_act", activation, "only silu is computed");
  options.rotary = read_rotary(config, options.context);
  options.attention_dropout = read_dropout(config, "attention_dropout", 0.0);
  const bool bias = family == ModelFamily::kMistral || family == ModelFamily::kQwen2
                        ? false
                        : config.boolean("attention_bias", false);
  options.qkv_bias = bias || family == ModelFamily::kQwen2;
  options.output_bias = bias;
  options.feedforward_bias = family == ModelFamily::kLlama && config.boolean("mlp_bias", false);
  options.qk_norm = family == ModelFamily::kQwen3;
  options.tied_head = config.boolean("tie_word_embeddings", false);
  if (family != ModelFamily::kLlama) options.window = read_window(config, family, options.layers);
}

}  // namespace

HuggingFaceModel read_hugging_face_config(const std::string& where, const std::string& text) {
  ConfigReader config(where, parse_json_object(where, text, ErrorKind::kCheckpoint));
  HuggingFaceModel model;
  const std::string type = config.text("model_type");
  const auto* names =
      std::ranges::find(kFamilyNames, type, [](const FamilyNames& f) { return std::string(f.type); });
  if (names == std::end(kFamilyNames))
    config.refuse("model_type", type, "must be gpt2, llama, mistral, qwen2 or qwen3");
  model.family = names->family;
  model.vocabulary = config.integer("vocab_size");
  if (model.family == ModelFamily::kGpt2) {
    read_gpt2(config, model);
  } else {
    read_llama(config, model);
  }
  const std::vector<int32_t> begins = token_ids(config, "bos_token_id", model.vocabulary);
  if (!begins.empty()) model.begin = begins.front();
  model.ends = token_ids(config, "eos_token_id", model.vocabulary);
  config.reject_unknown(kWithoutMeaning);
  try {
    model.options = resolved(model.options, 1);
  } catch (const Error& error) {
    fail(ErrorKind::kCheckpoint, fmt::format("{}: {}", where, error.what()));
  }
  return model;
}

void read_generation_config(const std::string& where, const std::string& text, HuggingFaceModel& model) {
  ConfigReader config(where, parse_json_object(where, text, ErrorKind::kCheckpoint));
  std::vector<int32_t> ends = token_ids(config, "eos_token_id", model.vocabulary);
  if (ends.empty()) return;
  std::stable_partition(ends.begin(), ends.end(),
                        [&](int32_t id) { return std::ranges::count(model.ends, id) > 0; });
  model.ends = std::move(ends);
}

}  // namespace lockstep
