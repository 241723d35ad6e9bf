// Out of a checkpoint, into config.json and safetensors.
#include "lockstep/exchange/export_model.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/exchange/adapters.h"
#include "lockstep/exchange/hugging_face_config.h"
#include "lockstep/exchange/hugging_face_names.h"
#include "lockstep/exchange/safetensors.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/text/tokenizer.h"
#include "lockstep/text/utf8.h"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr size_t kMostTokenizerBytes = size_t{1} << 30;

// A directory that takes its name when everything in it is written, and is gone otherwise.
class NewDirectory {
 public:
  explicit NewDirectory(const std::string& path) : path_(fs::path(path).lexically_normal()) {
    if (!path_.has_filename()) path_ = path_.parent_path();
    std::error_code error;
    const bool there = fs::exists(fs::symlink_status(path_, error));
    if (path.empty() ||
        (there && (!fs::is_directory(fs::symlink_status(path_)) || !fs::is_empty(path_, error))))
      fail(ErrorKind::kUsage,
           fmt::format("{}: is in use: name a directory that is not there, or empty", path));
    prepared_ = path_.parent_path() / fmt::format(".{}.tmp-{}", path_.filename().string(), ::getpid());
    if (!fs::create_directory(prepared_, error)) refuse(error);
  }
  ~NewDirectory() {
    std::error_code ignored;
    if (!prepared_.empty()) fs::remove_all(prepared_, ignored);
  }
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;

  std::string file(const char* name) const { return (prepared_ / name).string(); }
  std::string path() const { return prepared_.string(); }
  void finish() {
    std::error_code error;
    fs::rename(prepared_, path_, error);
    if (error) refuse(error);
    prepared_.clear();
  }

 private:
  [[noreturn]] void refuse(const std::error_code& error) const {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: cannot be written: {}", path_.string(),
                     error ? error.message() : "something of a temporary name is there"));
  }
  fs::path path_, prepared_;
};

struct ExportedTokenizer {
  std::string text, config;
};

// Also tells the model where texts begin and end, where it does not know.
std::optional<ExportedTokenizer> take_tokenizer(const std::string& path, HuggingFaceModel& model) {
  if (path.empty()) return std::nullopt;
  std::error_code error;
  const std::string file =
      fs::is_directory(path, error) ? (fs::path(path) / "tokenizer.json").string() : path;
  if (!file.ends_with(".json") || !fs::is_regular_file(file, error))
    fail(ErrorKind::kUsage, fmt::format("--tokenizer {}: a tokenizer.json goes with exported models", path));
  const auto tokenizer = open_tokenizer({.path = file, .pattern = {}});
  if (tokenizer->vocabulary_size() > model.vocabulary) {
    fail(ErrorKind::kUsage, fmt::format("--tokenizer {}: has {} tokens, the model {}", path,
                                        tokenizer->vocabulary_size(), model.vocabulary));
  }
  model.vocabulary = tokenizer->vocabulary_size();
  nlohmann::ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                   {"model_max_length", model.options.context}};
  if (model.begin && !tokenizer->has(*model.begin)) model.begin = std::nullopt;
  std::erase_if(model.ends, [&](int32_t id) { return !tokenizer->has(id); });
  if (!model.begin) model.begin = tokenizer->begin_of_text();
  if (const auto end = tokenizer->end_of_text(); end && model.ends.empty()) model.ends = {*end};
  // A part of a character has no spelling.
  const auto name = [&](const char* key, int32_t id) {
    std::string scratch;
    const std::string text = tokenizer->decode(std::vector<int32_t>{id});
    if (well_formed(text, scratch) == text) config[key] = text;
  };
  if (model.begin) name("bos_token", *model.begin);
  if (!model.ends.empty()) name("eos_token", model.ends.front());
  return ExportedTokenizer{read_small_file(file, kMostTokenizerBytes, ErrorKind::kCheckpoint),
                           config.dump(2) + "\n"};
}

float element_of(const StateArray& array, int64_t i) {
  const std::byte* at = array.bytes.data() + static_cast<size_t>(i) * size_of(array.dtype);
  if (array.dtype == DType::kF64) {
    double value = 0.0;
    std::memcpy(&value, at, sizeof value);
    return static_cast<float>(value);
  }
  float value = 0.0f;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Columns `column` to column + columns of a matrix (rows, ...), row by row or turned.
std::vector<float> part_of(const StateArray& array, int64_t rows, int64_t column, int64_t columns,
                           bool turned) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  const int64_t width = array.shape.last();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) {
      values[static_cast<size_t>(turned ? i * rows + row : row * columns + i)] =
          element_of(array, row * width + column + i);
    }
  }
  return values;
}

class ExportedWeights {
 public:
  ExportedWeights(const State& weights, std::string where) : where_(std::move(where)) {
    for (const StateArray& array : weights.arrays) {
      constexpr std::string_view kGroup = "/parameters/";
      if (array.path.starts_with(kGroup)) arrays_[array.path.substr(kGroup.size())] = &array;
    }
  }

  // What of our parameter is the tensor. Zeros: a bias that the model does without.
  SafetensorsTensor tensor(const std::string& name, const HuggingFaceTensor& part, bool turned,
                           const ParameterEntry& parameter) const {
    const StateArray* array = find(parameter);
    return {name, part.shape, [part, turned, array] {
              const int64_t count = part.shape.elements();
              return array == nullptr
                         ? std::vector<float>(static_cast<size_t>(count))
                         : part_of(*array, count / part.columns, part.column, part.columns, turned);
            }};
  }
  void require_all_used() const {
    for (const auto& [name, array] : arrays_) {
      if (!used_.contains(name))
        fail(ErrorKind::kCheckpoint, fmt::format("{}: {}: is no parameter of such a gpt", where_, name));
    }
  }

 private:
  // Null: there is none, and it is a bias.
  const StateArray* find(const ParameterEntry& parameter) const {
    const auto found = arrays_.find(parameter.name);
    const auto refuse = [&](const std::string& rule) {
      fail(ErrorKind::kCheckpoint, fmt::format("{}: {}: {}", where_, parameter.name, rule));
    };
    if (found == arrays_.end()) {
      if (!parameter.name.ends_with(".bias") && !parameter.name.ends_with(".beta")) refuse("is missing");
      return nullptr;
    }
    const StateArray& array = *found->second;
    if (array.dtype != DType::kF32 && array.dtype != DType::kF64)
      refuse(fmt::format("is in {}", name_of(array.dtype)));
    Shape expected = parameter.shape;
    // Rows that the tokenizer does not have may follow.
    const bool table = parameter.name == "tokens.weight" || parameter.name == "head.weight";
    if (table && array.shape.rank() == 2 && array.shape[0] > expected[0]) expected[0] = array.shape[0];
    if (!(array.shape == expected))
      refuse(fmt::format("is {}, the model has {}", array.shape.to_string(), parameter.shape.to_string()));
    used_.insert(parameter.name);
    return &array;
  }

  std::string where_;
  std::map<std::string, const StateArray*> arrays_;
  mutable std::set<std::string> used_;
};

}  // namespace

std::optional<GptOptions> gpt_of_configuration(const std::string& configuration, const std::string& where,
                                               int64_t window_length) {
  Configuration parsed = Configuration::parse(configuration, where, {});
  Section model = parsed.section("model");
  if (!model.has("type") || model.text("type", std::nullopt, {}, "") != "gpt") return std::nullopt;
  return resolved(read_gpt(model), window_length);
}

void export_hugging_face(const State& weights, const std::string& where, const GptOptions& resolved,
                         int64_t vocabulary, const ExportOptions& options) {
  HuggingFaceModel model = hugging_face_model(resolved, vocabulary);
  model.begin = options.begin;
  model.ends = options.ends;
  const std::optional<ExportedTokenizer> tokenizer = take_tokenizer(options.tokenizer, model);
  const ExportedWeights source(weights, where);
  std::vector<SafetensorsTensor> tensors;
  for (const ParameterEntry& parameter : gpt_parameters(model.options, model.vocabulary)) {
    const HuggingFaceTensors stored = hugging_face_tensors(model, parameter);
    for (const HuggingFaceTensor& part : stored.parts) {
      const std::string name =
          part.name == kHuggingFaceHead ? part.name : hugging_face_prefix(model.family) + part.name;
      tensors.push_back(source.tensor(name, part, stored.turned, parameter));
    }
  }
  source.require_all_used();
  NewDirectory directory(options.directory);
  write_safetensors_shards(directory.path(), tensors, options.dtype, options.shard_bytes);
  if (tokenizer) {
    replace_file(directory.file("tokenizer.json"), tokenizer->text, ErrorKind::kCheckpoint);
    replace_file(directory.file("tokenizer_config.json"), tokenizer->config, ErrorKind::kCheckpoint);
  }
  replace_file(directory.file("config.json"), hugging_face_config(model, options.dtype),
               ErrorKind::kCheckpoint);
  directory.finish();
}

void export_adapter(const State& adapters, const std::string& where, const GptOptions& resolved,
                    int64_t vocabulary, const AdapterExport& of, const ExportOptions& options) {
  const HuggingFaceModel model = hugging_face_model(resolved, vocabulary);
  std::vector<SafetensorsTensor> tensors;
  std::map<std::string, int64_t> ends;  // of names of modules, behind the number of the block
  std::vector<std::string> modules;
  for (const auto& [place, a, b] : stored_adapters(adapters, resolved, vocabulary, where)) {
    std::vector<HuggingFaceTensor> parts = hugging_face_tensors(model, place.weight).parts;
    if (place.part >= 0) {
      if (parts.size() == 1) {
        fail(ErrorKind::kUsage,
             fmt::format("{}: {} is adapted by itself, and {} is one module for PEFT: export it "
                         "merged",
                         where, place.name, parts.front().name));
      }
      parts = {parts[static_cast<size_t>(place.part)]};
    }
    // One A for all that is one product here.
    for (const HuggingFaceTensor& part : parts) {
      constexpr std::string_view kWeight = ".weight";
      const std::string module = part.name.substr(0, part.name.size() - kWeight.size());
      modules.push_back(hugging_face_prefix(model.family) + module);
      ++ends[module.substr(module.find('.', module.find('.') + 1) + 1)];
      const std::string name = "base_model.model." + modules.back();
      const int64_t rank = a->shape[1], column = part.column - place.column;
      tensors.push_back({name + ".lora_A.weight", {rank, a->shape[0]}, [a = a] {
                           return part_of(*a, a->shape[0], 0, a->shape[1], true);
                         }});
      tensors.push_back({name + ".lora_B.weight", {part.columns, rank}, [b = b, part, column] {
                           return part_of(*b, b->shape[0], column, part.columns, true);
                         }});
    }
  }
  std::vector<std::string> targets;
  for (const auto& [end, count] : ends) {
    if (count != resolved.layers) targets = modules;  // some blocks alone: each by its whole name
  }
  if (targets.empty()) {
    for (const auto& [end, count] : ends) targets.push_back(end);
  }
  const bool whole = of.lora.alpha == std::floor(of.lora.alpha) && of.lora.alpha < 9e15;
  const nlohmann::ordered_json config = {
      {"peft_type", "LORA"},
      {"task_type", "CAUSAL_LM"},
      {"base_model_name_or_path", of.base},
      {"r", of.lora.rank},
      {"lora_alpha", whole ? nlohmann::ordered_json(static_cast<int64_t>(of.lora.alpha))
                           : nlohmann::ordered_json(of.lora.alpha)},
      {"lora_dropout", of.lora.dropout},
      {"target_modules", targets},
      {"fan_in_fan_out", model.family == ModelFamily::kGpt2},
      {"bias", "none"},
      {"modules_to_save", nullptr},
      {"rank_pattern", nlohmann::ordered_json::object()},
      {"alpha_pattern", nlohmann::ordered_json::object()},
      {"use_rslora", false},
      {"use_dora", false},
      {"inference_mode", true}};
  NewDirectory directory(options.directory);
  write_safetensors(directory.file("adapter_model.safetensors"), tensors, options.dtype);
  replace_file(directory.file("adapter_config.json"), config.dump(2) + "\n", ErrorKind::kCheckpoint);
  directory.finish();
}

}  // namespace lockstep
