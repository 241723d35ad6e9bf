// Writing a gpt as a directory of Hugging Face.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"
#include "lockstep/core/dtype.h"
#include "lockstep/nn/gpt.h"
#include "lockstep/nn/lora.h"

namespace lockstep {

struct ExportOptions {
  std::string directory = {};  // must not exist, or be empty; is there when it is whole
  DType dtype = DType::kF32;   // kF32, kBF16, kF16
  std::string tokenizer = {};  // tokenizer.json, or a directory that has one; empty: none goes with it
  int64_t shard_bytes = 5'000'000'000;
  // Tokens that texts begin and end with; where there are none, those of the tokenizer.
  std::optional<int32_t> begin = {};
  std::vector<int32_t> ends = {};
};

// What a checkpoint's configuration (TOML, of `where`) says of its gpt, resolved for windows of so many
// tokens. Nothing: it has another model.
std::optional<GptOptions> gpt_of_configuration(const std::string& configuration, const std::string& where,
                                               int64_t window_length);

// config.json, the weights, and the files of the tokenizer; rows of tokens that the tokenizer does not have
// are left out. weights: arrays "/parameters/NAME" of a gpt of these options over `vocabulary` tokens, from
// `where`. Errors: kUsage for options that no model of Hugging Face has, for a directory that is in use and
// for a tokenizer that does not go with it; kCheckpoint when arrays do not fit or files cannot be written.
void export_hugging_face(const State& weights, const std::string& where, const GptOptions& resolved,
                         int64_t vocabulary, const ExportOptions& options);

struct AdapterExport {
  LoraOptions lora;  // that the adapters were trained with
  std::string base;  // name of the model that they belong to
};

// adapter_model.safetensors and adapter_config.json, as PEFT reads them. adapters: arrays "/parameters/NAME",
// NAME of nn/lora.h. What is one product in a gpt and several there (queries, keys, values; gate, up) has the
// same A in each. Takes directory and dtype of the options. Errors as above.
void export_adapter(const State& adapters, const std::string& where, const GptOptions& resolved,
                    int64_t vocabulary, const AdapterExport& of, const ExportOptions& options);

}  // namespace lockstep
