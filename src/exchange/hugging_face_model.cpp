// A directory of Hugging Face as the parameters of a gpt.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/exchange/hugging_face_config.h"
#include "lockstep/exchange/hugging_face_names.h"
#include "lockstep/exchange/safetensors.h"
#include "lockstep/exchange/turned.h"
#include "lockstep/exchange/weights_source.h"

namespace lockstep {

namespace {

constexpr size_t kMostConfigBytes = size_t{1} << 24;

// Masks and tables that old versions of transformers have stored with the weights.
bool is_computed(const std::string& name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
         name.ends_with("rotary_emb.inv_freq");
}

class HuggingFaceSource final : public WeightsSource {
 public:
  explicit HuggingFaceSource(const std::string& directory) : directory_(directory) {
    const std::string config = (std::filesystem::path(directory) / "config.json").string();
    model_ =
        read_hugging_face_config(config, read_small_file(config, kMostConfigBytes, ErrorKind::kCheckpoint));
    const std::filesystem::path generation = std::filesystem::path(directory) / "generation_config.json";
    if (std::error_code error; std::filesystem::exists(generation, error)) {
      try {
        read_generation_config(generation.string(),
                               read_small_file(generation.string(), kMostConfigBytes, ErrorKind::kCheckpoint),
                               model_);
      } catch (const Error& unreadable) {
        // Weights are what most come for.
        log_warning(fmt::format("{}; what ends a text is taken from config.json", unreadable.what()));
      }
    }
    files_.emplace(directory);
    prefix_ = hugging_face_prefix(model_.family);
    const char* table = model_.family == ModelFamily::kGpt2 ? "wte.weight" : "embed_tokens.weight";
    if (files_->find(prefix_ + table).entry == nullptr && files_->find(table).entry != nullptr) prefix_ = "";
    options_ = model_.options;
    vocabulary_ = model_.vocabulary;
    begin_ = model_.begin;
    ends_ = model_.ends;
    compare();
  }

  std::vector<float> values(const ParameterEntry& parameter) const override {
    const HuggingFaceTensors tensors = hugging_face_tensors(model_, parameter);
    if (tensors.parts.size() == 1 && !tensors.turned) return read(tensors.parts.front().name);
    const int64_t width = parameter.shape.last(), rows = parameter.shape.elements() / width;
    std::vector<float> values(static_cast<size_t>(rows * width));
    for (const HuggingFaceTensor& part : tensors.parts) {
      const std::vector<float> stored = read(part.name);
      float* const to = values.data() + part.column;
      if (tensors.turned) {
        turn(stored.data(), part.columns, rows, to, width);
      } else {
        for (int64_t row = 0; row < rows; ++row)
          std::copy_n(stored.data() + row * part.columns, part.columns, to + row * width);
      }
    }
    return values;
  }

 private:
  std::string full_name(const std::string& name) const {
    return name == kHuggingFaceHead ? name : prefix_ + name;
  }
  std::vector<float> read(const std::string& name) const {
    const auto [file, entry] = files_->find(full_name(name));
    return file->read(*entry);
  }

  // Every tensor that the model has is there, of its shape, and no other.
  void compare() const {
    const std::vector<std::string> names = files_->names();
    if (std::ssize(names) < options_.layers) {
      fail(ErrorKind::kCheckpoint, fmt::format("{}: config.json says {} layers, and there are {} tensors",
                                               directory_, options_.layers, names.size()));
    }
    std::set<std::string> expected;
    std::vector<std::string> wrong;
    for (const ParameterEntry& parameter : gpt_parameters(options_, vocabulary_)) {
      for (const HuggingFaceTensor& part : hugging_face_tensors(model_, parameter).parts) {
        const std::string name = full_name(part.name);
        expected.insert(name);
        const SafetensorsEntry* entry = files_->find(name).entry;
        if (entry == nullptr) {
          wrong.push_back(name + " is missing");
        } else if (!(entry->shape == part.shape)) {
          wrong.push_back(fmt::format("{} is {}, config.json says {}", name, entry->shape.to_string(),
                                      part.shape.to_string()));
        }
      }
    }
    for (const std::string& name : names) {
      if (name == kHuggingFaceHead && options_.tied_head) {
        if (!head_is_table())
          wrong.push_back(name + " is not the table of tokens that config.json ties it to");
      } else if (!expected.contains(name) && !is_computed(name)) {
        wrong.push_back(name + " is of no such model");
      }
    }
    if (wrong.empty()) return;
    constexpr size_t kMostNamed = 8;
    const size_t count = wrong.size();
    if (count > kMostNamed) {
      wrong.resize(kMostNamed);
      wrong.push_back(fmt::format("{} more", count - kMostNamed));
    }
    fail(ErrorKind::kCheckpoint, fmt::format("{}: {}", directory_, fmt::join(wrong, "; ")));
  }

  bool head_is_table() const {
    const char* table = model_.family == ModelFamily::kGpt2 ? "wte.weight" : "embed_tokens.weight";
    const auto [head_file, head] = files_->find(kHuggingFaceHead);
    const auto [file, entry] = files_->find(full_name(table));
    if (entry == nullptr) return true;  // is said by itself
    return head->dtype == entry->dtype && head->shape == entry->shape &&
           std::ranges::equal(head_file->bytes(*head), file->bytes(*entry));
  }

  std::string directory_, prefix_;
  HuggingFaceModel model_;
  std::optional<SafetensorsDirectory> files_;
};

}  // namespace

std::unique_ptr<WeightsSource> open_hugging_face(const std::string& directory) {
  return std::make_unique<HuggingFaceSource>(directory);
}

}  // namespace lockstep
