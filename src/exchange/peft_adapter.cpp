// Reading PEFT's adapters, strictly.
#include "lockstep/exchange/peft_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/exchange/adapters.h"
#include "lockstep/exchange/config_reader.h"
#include "lockstep/exchange/hugging_face_config.h"
#include "lockstep/exchange/hugging_face_names.h"
#include "lockstep/exchange/turned.h"

namespace lockstep {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kTensors = "adapter_model.safetensors";
constexpr std::string_view kWeight = ".weight";

// What the tensors tell themselves, or is of training alone.
constexpr std::array kWithoutMeaningToAdapters = {
    "task_type",       "auto_mapping",      "peft_version",        "revision",
    "inference_mode",  "lora_dropout",      "fan_in_fan_out",      "target_modules",
    "exclude_modules", "rank_pattern",      "layers_to_transform", "layers_pattern",
    "megatron_core",   "qalora_group_size", "ensure_weight_tying", "runtime_config"};

bool is_off(const json& value) {
  return value == false || ((value.is_array() || value.is_object()) && value.empty());
}

std::string matrix_name(const HuggingFaceTensor& tensor) {
  return tensor.name.substr(0, tensor.name.size() - kWeight.size());
}

}  // namespace

bool holds_peft_adapter(const std::string& path) {
  std::error_code error;
  return fs::is_regular_file(fs::path(path) / kConfig, error);
}

PeftAdapter::PeftAdapter(const std::string& directory) : directory_(directory) {
  read_config();
  read_tensors();
}

void PeftAdapter::read_config() {
  constexpr size_t kMostBytes = size_t{1} << 24;
  const std::string path = (fs::path(directory_) / kConfig).string();
  json object = parse_json_object(path, read_small_file(path, kMostBytes, ErrorKind::kCheckpoint),
                                  ErrorKind::kCheckpoint);
  // Options of newer versions of PEFT that are off.
  for (auto it = object.begin(); it != object.end();) it = is_off(*it) ? object.erase(it) : std::next(it);
  ConfigReader config(path, std::move(object));
  if (const std::string type = config.text("peft_type"); type != "LORA")
    config.refuse("peft_type", type, "only LORA is computed");
  config.integer("r");
  alpha_ = config.real("lora_alpha", 8.0);
  rank_stabilized_ = config.boolean("use_rslora", false);
  base_ = config.text("base_model_name_or_path", "");
  if (const std::string bias = config.text("bias", "none"); bias != "none")
    config.refuse("bias", bias, "only none is computed");
  if (const json* initial = config.find("init_lora_weights"); initial != nullptr && initial->is_string()) {
    // These move a part of the base's weights into the adapter when training begins.
    for (const char* moving : {"pissa", "olora", "corda", "loftq"}) {
      if (initial->get<std::string>().starts_with(moving))
        config.refuse("init_lora_weights", *initial, "changes the base: save it converted to LoRA");
    }
  }
  if (const json* alphas = config.find("alpha_pattern"); alphas != nullptr) {
    for (const auto& [key, value] : alphas->items()) {
      const bool plain = std::ranges::all_of(
          key, [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-'; });
      if (!plain || !value.is_number())
        config.refuse("alpha_pattern", *alphas, "must give numbers to names of modules");
      alphas_[key] = value.get<double>();
    }
  }
  config.reject_unknown(kWithoutMeaningToAdapters);
}

// A key fits the name, or its end from a dot on.
double PeftAdapter::alpha_of(const std::string& module) const {
  for (const auto& [key, alpha] : alphas_) {
    if (module == key || module.ends_with("." + key)) return alpha;
  }
  return alpha_;
}

void PeftAdapter::read_tensors() {
  const std::string path = (fs::path(directory_) / kTensors).string();
  std::error_code error;
  if (!fs::exists(path, error) && fs::exists(fs::path(directory_) / "adapter_model.bin", error))
    fail(ErrorKind::kCheckpoint, path + ": no such file: adapter_model.bin is not read, convert it");
  file_.emplace(path);
  const auto refuse = [&](const std::string& name, const std::string& rule) {
    fail(ErrorKind::kCheckpoint, fmt::format("{}: {}: {}", path, name, rule));
  };
  for (const SafetensorsEntry& entry : file_->entries()) {
    constexpr std::string_view kBase = "base_model.model.", kA = ".lora_A.weight", kB = ".lora_B.weight";
    const bool is_a = entry.name.ends_with(kA);
    if (!entry.name.starts_with(kBase) || !(is_a || entry.name.ends_with(kB)))
      refuse(entry.name, "is no matrix of LoRA for a product");
    std::string module = entry.name.substr(kBase.size(), entry.name.size() - kBase.size() - kA.size());
    const double alpha = alpha_of(module);
    for (const ModelFamily family : {ModelFamily::kGpt2, ModelFamily::kLlama}) {
      if (const std::string prefix = hugging_face_prefix(family); module.starts_with(prefix))
        module.erase(0, prefix.size());
    }
    if (entry.shape.rank() != 2) refuse(entry.name, "is " + entry.shape.to_string() + ", not a matrix");
    PeftChange& change = changes_[module];
    (is_a ? change.a : change.b) = &entry;
    change.scale = alpha;  // until the rank is known
  }
  for (auto& [module, change] : changes_) {
    if (change.a == nullptr || change.b == nullptr) refuse(module, "has one of lora_A and lora_B alone");
    change.rank = change.a->shape[0];
    change.inputs = change.a->shape[1];
    change.outputs = change.b->shape[0];
    if (change.b->shape[1] != change.rank)
      refuse(module, fmt::format("lora_A {} and lora_B {} differ in rank", change.a->shape.to_string(),
                                 change.b->shape.to_string()));
    const auto rank = static_cast<double>(change.rank);
    change.scale /= rank_stabilized_ ? std::sqrt(rank) : rank;
  }
  if (changes_.empty()) refuse(kTensors, "has no tensors");
}

std::vector<float> PeftAdapter::a(const PeftChange& change) const {
  std::vector<float> values(static_cast<size_t>(change.inputs * change.rank));
  turn(file_->read(*change.a).data(), change.rank, change.inputs, values.data(), change.rank);
  return values;
}

std::vector<float> PeftAdapter::b(const PeftChange& change) const {
  std::vector<float> values(static_cast<size_t>(change.rank * change.outputs));
  turn(file_->read(*change.b).data(), change.outputs, change.rank, values.data(), change.outputs);
  return values;
}

namespace {

// Which change each module of a parameter has, in the order of its parts.
struct ModuleChange {
  HuggingFaceTensor tensor;
  const PeftChange* change = nullptr;  // null: none
};
std::vector<ModuleChange> changes_of(const PeftAdapter& adapter, const HuggingFaceModel& model,
                                     const ParameterEntry& weight) {
  std::vector<ModuleChange> modules;
  for (const HuggingFaceTensor& part : hugging_face_tensors(model, weight).parts) {
    const auto found = adapter.changes().find(matrix_name(part));
    const PeftChange* change = found == adapter.changes().end() ? nullptr : &found->second;
    if (change != nullptr && (change->inputs != weight.shape[0] || change->outputs != part.columns)) {
      fail(ErrorKind::kCheckpoint,
           fmt::format("{}: {}: changes a matrix of ({},{}), the model's is ({},{})", adapter.directory(),
                       found->first, change->inputs, change->outputs, weight.shape[0], part.columns));
    }
    modules.push_back({part, change});
  }
  return modules;
}

void require_all_used(const PeftAdapter& adapter, size_t used, const HuggingFaceModel& model,
                      int64_t vocabulary, const char* rule) {
  if (used == adapter.changes().size()) return;
  std::vector<std::string> unknown;
  for (const auto& [module, change] : adapter.changes()) unknown.push_back(module);
  for (const ParameterEntry& parameter : gpt_parameters(model.options, vocabulary)) {
    if (!parameter.name.ends_with(kWeight)) continue;
    for (const HuggingFaceTensor& part : hugging_face_tensors(model, parameter).parts)
      if (parameter.shape.rank() == 2 && parameter.name.starts_with("blocks."))
        std::erase(unknown, matrix_name(part));
  }
  const std::string first = unknown.empty() ? adapter.changes().begin()->first : unknown.front();
  fail(ErrorKind::kCheckpoint, fmt::format("{}: {}: {}", adapter.directory(), first, rule));
}

class AdaptedSource final : public WeightsSource {
 public:
  AdaptedSource(const std::string& directory, const std::string& base) : adapter_(directory) {
    base_directory_ = base_directory_of(adapter_, base);
    base_ = open_hugging_face(base_directory_);
    options_ = base_->options();
    vocabulary_ = base_->vocabulary();
    begin_ = base_->begin();
    ends_ = base_->ends();
    model_ = hugging_face_model(options_, vocabulary_);
    size_t used = 0;
    for (const AdaptedColumns& of : adapted_columns(options_, vocabulary_)) {
      if (of.part >= 0) continue;
      used += static_cast<size_t>(
          std::ranges::count_if(changes_of(adapter_, model_, of.weight),
                                [](const auto& module) { return module.change != nullptr; }));
    }
    require_all_used(adapter_, used, model_, vocabulary_, "is no product of the base's blocks");
  }

  std::vector<float> values(const ParameterEntry& parameter) const override {
    std::vector<float> values = base_->values(parameter);
    if (parameter.shape.rank() != 2 || !parameter.name.starts_with("blocks.")) return values;
    for (const auto& [tensor, change] : changes_of(adapter_, model_, parameter)) {
      if (change == nullptr) continue;
      add_low_rank(values.data() + tensor.column, parameter.shape[1], adapter_.a(*change),
                   adapter_.b(*change), change->inputs, change->rank, change->outputs, change->scale);
    }
    return values;
  }

 private:
  PeftAdapter adapter_;
  std::unique_ptr<WeightsSource> base_;
  HuggingFaceModel model_;  // whose names those of the base are
};

StateArray array_of(const std::string& name, const Shape& shape, const std::vector<float>& values) {
  StateArray array{"/parameters/" + name, DType::kF32, shape, {}};
  array.bytes.resize(values.size() * sizeof(float));
  std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
  return array;
}

}  // namespace

std::string base_directory_of(const PeftAdapter& adapter, std::string base) {
  std::error_code error;
  if (base.empty()) {
    base = adapter.base();
    const fs::path beside = fs::path(adapter.directory()) / base;
    if (!base.empty() && !fs::is_directory(base, error) && fs::is_directory(beside, error))
      base = beside.string();
  }
  if (base.empty() || !fs::is_directory(base, error)) {
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: its base \"{}\" is no directory here: name the one that it was trained over in "
                     "base_model_name_or_path of {}, or with --base",
                     adapter.directory(), base, kConfig));
  }
  if (holds_peft_adapter(base))
    fail(ErrorKind::kCheckpoint,
         fmt::format("{}: its base {} is an adapter itself", adapter.directory(), base));
  return base;
}

std::unique_ptr<WeightsSource> open_adapted(const std::string& directory, const std::string& base) {
  return std::make_unique<AdaptedSource>(directory, base);
}

State adapter_parameters(const PeftAdapter& adapter, const GptOptions& resolved, int64_t vocabulary,
                         const LoraOptions& lora, const std::vector<ParameterEntry>& trained) {
  const HuggingFaceModel model = hugging_face_model(resolved, vocabulary);
  const auto refuse = [&](const std::string& module, const std::string& rule) {
    fail(ErrorKind::kCheckpoint, fmt::format("{}: {}: {}", adapter.directory(), module, rule));
  };
  State state;
  size_t used = 0;
  for (const AdaptedColumns& of : adapted_columns(resolved, vocabulary)) {
    if (std::ranges::find(trained, of.name + kLoraA, &ParameterEntry::name) == trained.end()) continue;
    std::vector<ModuleChange> modules = changes_of(adapter, model, of.weight);
    if (of.part >= 0) {
      if (modules.size() == 1)
        refuse(of.name, "is trained by itself, and is no module of its own in such a model");
      modules = {modules[static_cast<size_t>(of.part)]};
    }
    std::vector<float> a, b(static_cast<size_t>(lora.rank * of.columns));
    int64_t column = 0;
    for (const auto& [tensor, change] : modules) {
      const std::string module = matrix_name(tensor);
      if (change == nullptr) refuse(module, fmt::format("is not there, and lora.targets has {}", of.name));
      if (change->rank != lora.rank)
        refuse(module, fmt::format("has rank {}, lora.rank is {}", change->rank, lora.rank));
      if (std::abs(change->scale - lora.scale()) > 1e-12 * lora.scale()) {
        refuse(module,
               fmt::format("is scaled by {}, lora.alpha / lora.rank is {}", change->scale, lora.scale()));
      }
      const std::vector<float> own = adapter.a(*change), columns = adapter.b(*change);
      if (!a.empty() && a != own) {
        refuse(module,
               fmt::format("has another A than the module before it, and {} has one: name its parts in "
                           "lora.targets (\"*.{}.*\")",
                           of.name, gpt_parts(resolved, of.name).front().name));
      }
      a = own;
      for (int64_t row = 0; row < lora.rank; ++row) {
        std::copy_n(columns.data() + row * tensor.columns, tensor.columns,
                    b.data() + row * of.columns + column);
      }
      column += tensor.columns;
      ++used;
    }
    state.arrays.push_back(array_of(of.name + kLoraA, {of.weight.shape[0], lora.rank}, a));
    state.arrays.push_back(array_of(of.name + kLoraB, {lora.rank, of.columns}, b));
  }
  require_all_used(adapter, used, model, vocabulary, "is not among what lora.targets names");
  return state;
}

}  // namespace lockstep
