// Reading, freezing and merging base weights.
#include "lockstep/train/initial_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/configuration.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/data/token_windows.h"
#include "lockstep/exchange/adapters.h"
#include "lockstep/exchange/export_model.h"
#include "lockstep/exchange/model_difference.h"
#include "lockstep/exchange/peft_adapter.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/data_outline.h"

namespace lockstep {

namespace {

constexpr const char* kBaseDigest = "/lora/base";

bool holds_adapters(const State& state) {
  return state.scalars.contains(kBaseDigest);
}

// Parameters alone, in the order of `names`. Error (kCheckpoint) naming what is missing, too many or of
// another shape.
State base_of(State found, const std::vector<FrozenEntry>& frozen, const std::string& path) {
  State base = weights_of(found, has_average(found)), expected;
  found = {};
  for (const FrozenEntry& entry : frozen)
    expected.arrays.push_back({"/parameters/" + entry.name, DType::kF32, entry.shape, {}});
  const bool wide = !base.arrays.empty() && base.arrays.front().dtype == DType::kF64;
  for (StateArray& array : expected.arrays) array.dtype = wide ? DType::kF64 : DType::kF32;
  check_matches(expected, base, path);
  std::vector<StateArray> ordered;
  for (const StateArray& wanted : expected.arrays) {
    ordered.push_back(std::move(*std::ranges::find(base.arrays, wanted.path, &StateArray::path)));
  }
  base.arrays = std::move(ordered);
  return base;
}

void require_base(const State& found, const std::string& digest, const std::string& path,
                  const std::string& base) {
  const auto it = found.scalars.find(kBaseDigest);
  if (it == found.scalars.end())
    fail(ErrorKind::kCheckpoint, fmt::format("{}: has no {}", path, kBaseDigest));
  if (it->second == Scalar(digest)) return;
  fail(ErrorKind::kCheckpoint,
       fmt::format("{}: its adapters belong to other weights than those of {}: digest {}, here {}", path,
                   base, to_text(it->second), digest));
}

// Error (kCheckpoint) naming the options in which the weights' model differs from the run's; (kUsage) where
// one that may differ does not. Where some parameters are drawn, the others' shapes say what does not fit.
void require_same_model(const GptOptions& run, const GptOptions& found, const std::string& path,
                        const InitialWeights& options) {
  std::vector<ModelDifference> differences = model_differences(run, found);
  for (const std::string& key : options.differ) {
    if (std::erase_if(differences, [&](const ModelDifference& at) { return at.key == key; }) == 0) {
      fail(ErrorKind::kUsage,
           fmt::format(
               "train.initial_weights_differ: '{}' is none of the options of [model] in which {} differs "
               "from the run",
               key, path));
    }
  }
  if (!options.without.empty())
    std::erase_if(differences, [](const ModelDifference& at) { return at.in_shapes; });
  require_none(differences, path, "the run's");
}

}  // namespace

std::vector<float> in_fp32(const StateArray& array) {
  const auto count = static_cast<size_t>(array.shape.elements());
  std::vector<float> values(count);
  if (array.dtype == DType::kF64) {
    std::vector<double> wide(count);
    std::memcpy(wide.data(), array.bytes.data(), array.bytes.size());
    std::ranges::transform(wide, values.begin(), [](double value) { return static_cast<float>(value); });
  } else {
    std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
  }
  return values;
}

State read_initial_weights(const std::string& path, const std::string& configuration, const DataShape& data,
                           const InitialWeights& options) {
  const auto gpt = gpt_of_configuration(configuration, "the run", data.sample.last());
  if (!holds_weights(path)) {
    State found = read_checkpoint(path);
    if (holds_adapters(found)) {
      fail(ErrorKind::kCheckpoint,
           fmt::format(
               "{}: holds adapters, not the weights that they belong to: merge them first (lockstep export)",
               path));
    }
    if (gpt && !found.configuration.empty()) {
      const auto theirs = gpt_of_configuration(found.configuration, path, data.sample.last());
      if (theirs) require_same_model(*gpt, *theirs, path, options);
    }
    return found;
  }
  if (!gpt)
    fail(
        ErrorKind::kUsage,
        fmt::format("{}: no checkpoint, and what else is read as weights is for model.type = \"gpt\"", path));
  const auto source = open_weights(path, options.base);
  source->leave_out_zero_biases(*gpt);
  require_same_model(*gpt, source->options(), path, options);
  if (options.without.empty()) return parameters_of(*source, path, data.classes, gpt->context);
  // What there is: of another shape is what is drawn.
  return parameters_of(*source, path, std::min(data.classes, source->vocabulary()),
                       std::min(gpt->context, source->options().context));
}

State read_initial_adapter(const std::string& path, const std::string& configuration, const DataShape& data,
                           const LoraOptions& lora, const ParameterStore& store) {
  const auto gpt = gpt_of_configuration(configuration, "the run", data.sample.last());
  if (!gpt) fail(ErrorKind::kUsage, "train.initial_adapter: is for model.type = \"gpt\"");
  return adapter_parameters(PeftAdapter(path), *gpt, data.classes, lora, store.parameters());
}

void tell_of_dropout(const std::string& path, const std::string& configuration, const DataShape& data) {
  std::error_code error;
  const auto gpt = gpt_of_configuration(configuration, "the run", data.sample.last());
  if (!gpt || !std::filesystem::is_directory(path, error)) return;
  const auto said = [](const GptOptions& options) {
    return fmt::format("attention_dropout = {}, residual_dropout = {}, embedding_dropout = {}",
                       options.attention_dropout, options.residual_dropout, options.embedding_dropout);
  };
  const std::string theirs = said(open_weights(path)->options()), ours = said(*gpt);
  if (theirs != ours) log_info(fmt::format("{}: its config.json has {}; the run {}", path, theirs, ours));
}

void warn_of_vocabulary(const State& found, const std::string& path, const std::string& vocabulary) {
  if (vocabulary.empty()) return;
  bool other = false;
  if (holds_weights(path)) {
    const std::string beside = tokenizer_beside(path);
    other = !beside.empty() && !made_by(vocabulary, beside);
  } else if (!found.data.empty()) {
    const std::string trained_with = DataOutline::parse(found.data, path).vocabulary;
    other = !trained_with.empty() && !same_tokenizer(trained_with, vocabulary);
    if (!trained_with.empty() && !other && trained_with != vocabulary)
      log_warning(fmt::format("{}: its weights are of {}; the data of {}", path, trained_with, vocabulary));
  }
  if (other)
    log_warning(fmt::format("{}: its weights are of another tokenizer than the data's tokens", path));
}

void BaseWeights::load(Replica& replica, const State& found, const std::string& path,
                       Communicator& communicator) {
  ParameterStore& store = replica.store;
  State base;
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() == 0) base = base_of(found, store.frozen(), path);
      },
      "base weights");
  path_ = path;
  digest_ = communicator.rank() == 0 ? state_digest(base) : "";
  broadcast_text(communicator, digest_, "base weights");
  const DType dtype = store.dtype();
  for (size_t i = 0; i < store.frozen().size(); ++i) {
    const FrozenEntry& entry = store.frozen()[i];
    Tensor values = Tensor::empty(entry.shape, dtype, cpu_backend());
    if (communicator.rank() == 0) {
      StateArray array = std::move(base.arrays[i]);
      Tensor given = Tensor::empty(entry.shape, array.dtype, cpu_backend());
      std::memcpy(given.mutable_data(), array.bytes.data(), array.bytes.size());
      values = given.converted(dtype);
    }
    communicator.broadcast(values.mutable_data(), values.bytes(), 0, entry.name)->wait();
    const DType held = entry.product ? replica.compute : dtype;
    values = values.converted(held);
    Tensor there = Tensor::empty(entry.shape, held, store.backend());
    store.backend().copy_from_host(there.mutable_data(), values.data(), values.bytes());
    replica.freeze(i, there);
  }
}

void BaseWeights::describe(State& state) const {
  if (!digest_.empty()) state.scalars[kBaseDigest] = digest_;
}

void BaseWeights::restore(const State& found, const std::string& path) {
  if (!digest_.empty()) require_base(found, digest_, path, path_);
}

std::string initial_weights_of(const State& found, const std::string& path) {
  Configuration configuration = Configuration::parse(found.configuration, path, {});
  return configuration.section("train").text("initial_weights", "", {}, "");
}

LoraOptions lora_of(const State& found, const std::string& path) {
  if (!holds_adapters(found)) return {};
  Configuration configuration = Configuration::parse(found.configuration, path, {});
  Section section = configuration.section("lora");
  return read_lora(section);
}

State whole_weights(const State& found, bool averaged, const std::string& path,
                    const std::string& base_path) {
  State adapters = weights_of(found, averaged);
  if (!holds_adapters(found)) {
    if (!base_path.empty())
      fail(ErrorKind::kUsage, fmt::format("--base {}: {} has all of its weights", base_path, path));
    return adapters;
  }
  const std::string from = base_path.empty() ? initial_weights_of(found, path) : base_path;
  const LoraOptions options = lora_of(found, path);
  const DataShape shape = DataOutline::parse(found.data, path).shape;
  const auto gpt = gpt_of_configuration(found.configuration, path, shape.sample.last());
  if (!gpt) fail(ErrorKind::kCheckpoint, path + ": has adapters of another model than a gpt");
  std::vector<FrozenEntry> frozen;
  for (const ParameterEntry& entry : gpt_parameters(*gpt, shape.classes))
    frozen.push_back({entry.name, entry.shape});
  State base = base_of(read_initial_weights(from, found.configuration, shape, {}), frozen, from);
  require_base(found, state_digest(base), path, from);
  for (const auto& [of, a, b] : stored_adapters(adapters, *gpt, shape.classes, path)) {
    StateArray& weight = *std::ranges::find(base.arrays, "/parameters/" + of.weight.name, &StateArray::path);
    std::vector<float> values = in_fp32(weight);
    add_low_rank(values.data() + of.column, weight.shape[1], in_fp32(*a), in_fp32(*b), a->shape[0],
                 a->shape[1], of.columns, options.scale());
    weight.dtype = DType::kF32;
    weight.bytes.resize(values.size() * sizeof(float));
    std::memcpy(weight.bytes.data(), values.data(), weight.bytes.size());
  }
  return base;
}

}  // namespace lockstep
