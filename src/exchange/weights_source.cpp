// What all sources of weights have in common.
#include "lockstep/exchange/weights_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "lockstep/core/error.h"
#include "lockstep/exchange/llmc_model.h"
#include "lockstep/exchange/peft_adapter.h"
#include "lockstep/nn/module.h"
#include "lockstep/text/tokenizer.h"

namespace lockstep {

bool holds_weights(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return true;
  if (!std::filesystem::is_regular_file(path, error)) return false;  // a pipe would keep the reader waiting
  int32_t magic = 0;
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(&magic), sizeof magic);
  return file && magic == kLlmcModelMagic;
}

std::unique_ptr<WeightsSource> open_weights(const std::string& path, const std::string& base) {
  std::error_code error;
  if (holds_peft_adapter(path)) return open_adapted(path, base);
  if (!std::filesystem::exists(path, error))
    fail(ErrorKind::kCheckpoint, path + ": there is no such file or directory");
  if (!base.empty()) fail(ErrorKind::kUsage, fmt::format("--base {}: {} has all of its weights", base, path));
  return std::filesystem::is_directory(path, error) ? open_hugging_face(path) : open_llmc_model(path);
}

void WeightsSource::leave_out_zero_biases(const GptOptions& wanted) {
  for (bool GptOptions::*const bias : {&GptOptions::norm_bias, &GptOptions::qkv_bias,
                                       &GptOptions::output_bias, &GptOptions::feedforward_bias}) {
    if (wanted.*bias || !(options_.*bias)) continue;
    GptOptions without = options_;
    without.*bias = false;
    std::vector<ParameterEntry> added = gpt_parameters(options_, vocabulary_);
    for (const ParameterEntry& kept : gpt_parameters(without, vocabulary_))
      std::erase_if(added, [&](const ParameterEntry& entry) { return entry.name == kept.name; });
    const auto zero = [this](const ParameterEntry& entry) {
      return std::ranges::all_of(values(entry), [](float value) { return value == 0.0f; });
    };
    if (std::ranges::all_of(added, zero)) options_ = without;
  }
}

namespace {

// Empty: there is none that could be read.
std::string digest_of_tokenizer_in(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) return "";
  try {
    return open_tokenizer({.path = directory, .pattern = {}})->digest();
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

std::string tokenizer_directory(const std::string& path, const std::string& base) {
  if (!holds_peft_adapter(path) || !digest_of_tokenizer_in(path).empty()) return path;
  return base_directory_of(PeftAdapter(path), base);
}

std::string tokenizer_beside(const std::string& path, const std::string& base) {
  return digest_of_tokenizer_in(tokenizer_directory(path, base));
}

std::vector<ParameterEntry> gpt_parameters(const GptOptions& resolved, int64_t vocabulary) {
  DataShape data;
  data.sample = data.positions = Shape{1};
  data.input = DType::kI32;
  data.classes = vocabulary;
  ParameterStore store;
  make_gpt(resolved, data, ModuleBuilder(store));
  return store.parameters();
}

State parameters_of(const WeightsSource& source, const std::string& path, int64_t vocabulary,
                    int64_t context) {
  const GptOptions& options = source.options();
  if (vocabulary > source.vocabulary()) {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: has {} tokens, the data have {}", path, source.vocabulary(), vocabulary));
  }
  if (options.positions == GptPositions::kLearned && context > options.context) {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: has {} positions, the model {}", path, options.context, context));
  }
  State state;
  for (const ParameterEntry& entry : gpt_parameters(options, source.vocabulary())) {
    const std::vector<float> values = source.values(entry);
    StateArray array{"/parameters/" + entry.name, DType::kF32, entry.shape, {}};
    if (entry.name == "tokens.weight" || entry.name == "head.weight") array.shape[0] = vocabulary;
    if (entry.name == "positions.weight") array.shape[0] = context;
    array.bytes.resize(static_cast<size_t>(array.shape.elements()) * sizeof(float));
    std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
    state.arrays.push_back(std::move(array));
  }
  return state;
}

}  // namespace lockstep
