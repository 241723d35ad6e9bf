// The names of Hugging Face's GPT-2 and Llama families.
#include "lockstep/exchange/hugging_face_names.h"

#include <fmt/format.h>

#include <span>
#include <utility>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

using Renaming = std::pair<const char*, const char*>;

constexpr Renaming kGpt2Names[] = {
    {"tokens.weight", "wte.weight"},
    {"positions.weight", "wpe.weight"},
    {"head.weight", kHuggingFaceHead},
    {"norm.gamma", "ln_f.weight"},
    {"norm.beta", "ln_f.bias"},
    {"attention_norm.gamma", "ln_1.weight"},
    {"attention_norm.beta", "ln_1.bias"},
    {"attention.qkv.weight", "attn.c_attn.weight"},
    {"attention.qkv.bias", "attn.c_attn.bias"},
    {"attention.output.weight", "attn.c_proj.weight"},
    {"attention.output.bias", "attn.c_proj.bias"},
    {"feedforward_norm.gamma", "ln_2.weight"},
    {"feedforward_norm.beta", "ln_2.bias"},
    {"expand.weight", "mlp.c_fc.weight"},
    {"expand.bias", "mlp.c_fc.bias"},
    {"contract.weight", "mlp.c_proj.weight"},
    {"contract.bias", "mlp.c_proj.bias"},
};

// {}: the parts of products that are one in ours.
constexpr Renaming kLlamaNames[] = {
    {"tokens.weight", "embed_tokens.weight"},
    {"head.weight", kHuggingFaceHead},
    {"norm.gamma", "norm.weight"},
    {"attention_norm.gamma", "input_layernorm.weight"},
    {"attention.qkv.weight", "self_attn.{}_proj.weight"},
    {"attention.qkv.bias", "self_attn.{}_proj.bias"},
    {"attention.query_norm.gamma", "self_attn.q_norm.weight"},
    {"attention.key_norm.gamma", "self_attn.k_norm.weight"},
    {"attention.output.weight", "self_attn.o_proj.weight"},
    {"attention.output.bias", "self_attn.o_proj.bias"},
    {"feedforward_norm.gamma", "post_attention_layernorm.weight"},
    {"expand.weight", "mlp.{}_proj.weight"},
    {"expand.bias", "mlp.{}_proj.bias"},
    {"contract.weight", "mlp.down_proj.weight"},
    {"contract.bias", "mlp.down_proj.bias"},
};

}  // namespace

std::string hugging_face_prefix(ModelFamily family) {
  return family == ModelFamily::kGpt2 ? "transformer." : "model.";
}

HuggingFaceTensors hugging_face_tensors(const HuggingFaceModel& model, const ParameterEntry& parameter) {
  const GptOptions& options = model.options;
  const bool gpt2 = model.family == ModelFamily::kGpt2;
  std::string block, rest = parameter.name;  // "blocks.7." in front
  if (rest.starts_with("blocks.")) {
    const size_t end = rest.find('.', 7);
    block = (gpt2 ? "h." : "layers.") + rest.substr(7, end - 6);
    rest = rest.substr(end + 1);
  }
  std::string name;
  for (const Renaming& renaming : gpt2 ? std::span<const Renaming>(kGpt2Names) : std::span(kLlamaNames)) {
    if (rest == renaming.first) name = renaming.second;
  }
  if (name.empty())
    fail(ErrorKind::kInternal, fmt::format("{}: has no name in the models of Hugging Face", parameter.name));
  const bool product = parameter.shape.rank() == 2 && !block.empty();
  HuggingFaceTensors tensors{product && !gpt2, {}};
  std::vector<std::pair<std::string, int64_t>> parts;
  if (name.find("{}") == std::string::npos) {
    parts = {{"", parameter.shape.last()}};
  } else if (name.starts_with("self_attn")) {
    const int64_t keys = options.kv_heads * options.head_size;
    parts = {{"q", options.heads * options.head_size}, {"k", keys}, {"v", keys}};
  } else {
    parts = {{"gate", options.feedforward}, {"up", options.feedforward}};
  }
  int64_t column = 0;
  for (const auto& [part, columns] : parts) {
    Shape shape = parameter.shape;
    shape[shape.rank() - 1] = columns;
    if (tensors.turned) std::swap(shape[0], shape[1]);
    std::string full = block + name;
    if (const size_t hole = full.find("{}"); hole != std::string::npos) full.replace(hole, 2, part);
    tensors.parts.push_back({full, shape, column, columns});
    column += columns;
  }
  return tensors;
}

}  // namespace lockstep
