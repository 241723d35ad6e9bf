// Building a model and giving it a checkpoint's weights.
#include "lockstep/train/trained_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/autodiff/autocast.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/data/token_windows.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/configuration_changes.h"
#include "lockstep/train/data_checks.h"
#include "lockstep/train/evaluation.h"
#include "lockstep/train/initial_weights.h"
#include "lockstep/train/plan_agreement.h"
#include "lockstep/train/replica_agreement.h"
#include "lockstep/train/run_state.h"

namespace lockstep {

namespace {

void require_model_of(const State& state, const TrainingJob::Description& description,
                      const std::string& path) {
  const auto of_model = [](const std::string& key) { return key.starts_with("model."); };
  const auto before = settings_of(state.configuration);
  const bool described =
      std::ranges::any_of(before, [&](const auto& setting) { return of_model(setting.first); });
  if (!described) {
    log_warning(fmt::format(
        "{}: of a program that has not described its model: only tensors tell whether it is this one", path));
  }
  for (const SettingChange& change :
       configuration_changes(state.configuration, description.text, description.at_default)) {
    if (!described && of_model(change.key)) continue;
    if (defines_model(change.key) && !change.by_default) {
      fail(ErrorKind::kCheckpoint,
           fmt::format("{}: {}; an evaluation needs the model that was trained", path, change.text));
    }
  }
}

// Where samples that are evaluated may have been trained on.
void warn_of_split(const State& state, const RunSettings& settings, const RunData& data,
                   const std::string& path) {
  // The digest covers which samples are on which side of the split.
  const auto digest = state.scalars.find("/data/digest");
  if (data.train && settings.validation_fraction > 0.0 &&
      (digest == state.scalars.end() || digest->second != Scalar(data.digest))) {
    log_warning(
        fmt::format("{}: was trained on other data or another split of it (run.seed, "
                    "data.validation_fraction): samples evaluated here may have been trained on",
                    path));
  }
}

// Before all tensors of the one kind are missing and those of the other too many.
void require_same_adapters(const State& state, const std::string& path, int64_t rank,
                           const std::string& base) {
  const int64_t trained = lora_of(state, path).rank;
  if (trained == 0 && !base.empty())
    fail(ErrorKind::kUsage, fmt::format("--base {}: {} has all of its weights", base, path));
  if (trained == 0 && rank > 0)
    fail(ErrorKind::kUsage, fmt::format("{}: is a whole model: look at it without [lora]", path));
  if (trained > 0 && rank == 0) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: holds adapters of lora.rank = {}, of which the configuration has none: give [lora] "
                     "as in its training, and its train.initial_weights or --base",
                     path, trained));
  }
}

// Weights of another program may have their tokenizer beside them. A run may begin with such weights all the
// same, since vocabularies are made over; what others are evaluated on is no measure of them.
void require_tokenizer(const DataDescription& data, const std::string& weights, const std::string& base) {
  const std::string beside = tokenizer_beside(weights, base);
  if (data.vocabulary.empty() || beside.empty() || made_by(data.vocabulary, beside)) return;
  fail(ErrorKind::kData,
       fmt::format("{}: of {}; {} of tokenizer {}", data.source, data.vocabulary, weights, beside));
}

// "averaged" or "trained" where none are asked for.
std::string chosen_weights(const State& state, const std::string& asked) {
  return !asked.empty() ? asked : has_average(state) ? "averaged" : "trained";
}

// A mean of weights has no statistics of its own: these come from the samples.
bool lacks_statistics(const std::string& weights, const std::string& average) {
  return weights == "averaged" && average == name_of(AverageSettings::Type::kSwa);
}

std::string average_of(const State& state) {
  const auto type = state.scalars.find("/average/type");
  return type != state.scalars.end() ? std::get<std::string>(type->second) : "";
}

}  // namespace

bool needs_run_data(const std::string& checkpoint, std::string weights) {
  try {
    if (holds_weights(checkpoint)) return true;
    const State state = read_checkpoint_outline(checkpoint);
    weights = chosen_weights(state, weights);
    return state.data.empty() || lacks_statistics(weights, average_of(state));
  } catch (const Error&) {
    return true;
  }
}

TrainedModel::TrainedModel(Configuration& configuration, const std::string& checkpoint,
                           Communicator& communicator, std::string weights, Data data, bool full_precision,
                           const std::string& base)
    : weights_(std::move(weights)) {
  TrainingJob::Description description;
  State state;  // on rank 0
  // Weights of another program, which know nothing of the data.
  const bool foreign = holds_weights(checkpoint);
  if (foreign) {
    if (weights_ == "averaged")
      fail(ErrorKind::kUsage, checkpoint + ": --weights averaged: it has no averaged weights");
    weights_ = "trained";
  }
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() > 0 || foreign) return;
        state = read_checkpoint(checkpoint);
        weights_ = chosen_weights(state, weights_);
        if (weights_ == "averaged" && !has_average(state)) {
          fail(ErrorKind::kUsage, checkpoint + ": --weights averaged: it has no averaged weights");
        }
      },
      "checkpoint");
  broadcast_text(communicator, weights_, "weights");
  std::string outline = state.data, columns = columns_text(state);
  broadcast_text(communicator, outline, "data");
  broadcast_text(communicator, columns, "columns");
  std::string average = average_of(state);
  broadcast_text(communicator, average, "average");
  const bool mean = lacks_statistics(weights_, average);
  run_agreed(
      communicator,
      [&] {
        job_ = read_training_job(configuration);
        if (full_precision) job_.settings.compute = settings().parameters();
        set_threads(static_cast<int>(settings().threads));
        device_.emplace(settings(), communicator);
        if (!outline.empty()) outline_ = DataOutline::parse(outline, checkpoint);
        const auto build = [&] {
          replica_ = std::make_unique<Replica>(job_, outline_.shape, device_->backend(), communicator);
        };
        if (data == Data::kOutline && !outline.empty()) build();
        if (replica_ == nullptr || (mean && !replica_->store.statistics().empty())) {
          data_ = read_run_data(settings());
          match_columns(data_, columns, checkpoint);
          check_vocabulary(data_.train->description(), outline_.vocabulary, checkpoint);
          check_class_names(data_.train->description(), outline_.class_names, checkpoint);
          outline_ = outline_of(data_);
          build();
          check_indices(data_, replica_->model->index_limit());
          check_documents(data_.train->description(), *replica_->model);
        }
        job_.schedule({.tokens_per_step = 1});  // reads its keys, whatever they count in
        description = job_.describe();
        objective_.emplace(settings().loss, outline_.shape, settings().parameters(), device_->backend(),
                           settings().objective);
      },
      "model");
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() == 0 && !foreign)
          require_same_adapters(state, checkpoint, settings().lora.rank, base);
      },
      "checkpoint");
  if (foreign) {
    run_agreed(
        communicator,
        [&] {
          if (!replica_->store.frozen().empty())
            fail(ErrorKind::kUsage,
                 fmt::format("{}: is a whole model: evaluate it without [lora]", checkpoint));
          if (communicator.rank() > 0) return;
          state = read_initial_weights(checkpoint, description.text, outline_.shape, {{}, {}, base});
          if (data_.train) require_tokenizer(data_.train->description(), checkpoint, base);
        },
        "weights");
  }
  restore_parameters(*replica_, state, weights_ == "averaged", checkpoint, communicator);
  if (!replica_->store.frozen().empty()) {
    const std::string& path = base.empty() ? settings().initial_weights : base;
    load_base(path, description.text, state, checkpoint, communicator);
  }
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() > 0 || foreign) return;
        require_model_of(state, description, checkpoint);
        if (data_.train) require_statistics(data_, state, checkpoint);
        warn_of_split(state, settings(), data_, checkpoint);
      },
      "checkpoint");
  communicator.set_timeout(settings().timeout_seconds);
  device_->connect();
  run_agreed(
      communicator, [&] { compare_workers(communicator, description.text, data_); }, "configuration");
  agree_on_plans(device_->backend().plans(), communicator, {state.plans, false, {}}, {});
  if (mean && !replica_->store.statistics().empty()) {
    const AutocastScope autocast(settings().compute);
    Tensor statistics = replica_->store.statistic_values();
    statistics.assign(mean_statistics(*replica_, *data_.train, settings(), communicator));
  }
}

void TrainedModel::load_base(const std::string& path, const std::string& configuration, const State& state,
                             const std::string& checkpoint, Communicator& communicator) {
  State found;
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() == 0) found = read_initial_weights(path, configuration, outline_.shape, {});
      },
      "base weights");
  BaseWeights base;
  base.load(*replica_, found, path, communicator);
  run_agreed(
      communicator,
      [&] {
        if (communicator.rank() == 0) base.restore(state, checkpoint);
      },
      "base weights");
}

}  // namespace lockstep
