// config.json of Hugging Face's transformers: which model a directory holds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/core/dtype.h"
#include "lockstep/nn/gpt.h"

namespace lockstep {

enum class ModelFamily : uint8_t { kGpt2, kLlama, kMistral, kQwen2, kQwen3 };

struct FamilyNames {
  ModelFamily family;
  const char* type;          // model_type
  const char* architecture;  // the class of transformers
};
inline constexpr FamilyNames kFamilyNames[] = {{ModelFamily::kGpt2, "gpt2", "GPT2LMHeadModel"},
                                               {ModelFamily::kLlama, "llama", "LlamaForCausalLM"},
                                               {ModelFamily::kMistral, "mistral", "MistralForCausalLM"},
                                               {ModelFamily::kQwen2, "qwen2", "Qwen2ForCausalLM"},
                                               {ModelFamily::kQwen3, "qwen3", "Qwen3ForCausalLM"}};

struct HuggingFaceModel {
  ModelFamily family = ModelFamily::kGpt2;
  GptOptions options;      // resolved; the context is the model's positions
  int64_t vocabulary = 0;  // rows of the table of tokens
  std::optional<int32_t> begin;
  std::vector<int32_t> ends;  // tokens that end a text
};

// As transformers 4 and 5 write it. Error (kCheckpoint) naming `where` and the key: one that is missing, has
// another type, means what Lockstep does not compute, or is not known and so may mean that.
HuggingFaceModel read_hugging_face_config(const std::string& where, const std::string& text);

// What generation_config.json, as which `text` is read, names as eos_token_id ends texts instead of what
// config.json names, as in transformers: chat models have the ends of their turns there. Those of config.json
// stay the first. Nothing else of it is read: how tokens are drawn is for whoever asks for them. Error
// (kCheckpoint) naming `where`.
void read_generation_config(const std::string& where, const std::string& text, HuggingFaceModel& model);

// The family that computes what the model does, and its options in it: biases that it has beside the model's
// own are true there, and zero. Error (kUsage) naming the option that no family has.
HuggingFaceModel hugging_face_model(const GptOptions& resolved, int64_t vocabulary);

// config.json, for transformers 4 and 5. dtype: of the weights.
std::string hugging_face_config(const HuggingFaceModel& model, DType dtype);

}  // namespace lockstep
