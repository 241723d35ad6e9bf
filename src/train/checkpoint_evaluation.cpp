// A model out of a checkpoint, and its evaluation.
#include "train/checkpoint_evaluation.h"

#include <fmt/format.h>

#include <optional>

#include "autodiff/autocast.h"
#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "core/log.h"
#include "core/thread_pool.h"
#include "train/agreement.h"
#include "train/configuration_changes.h"
#include "train/data_checks.h"
#include "train/device.h"
#include "train/objective.h"
#include "train/plan_agreement.h"
#include "train/replica.h"
#include "train/replica_agreement.h"
#include "train/run_data.h"
#include "train/run_state.h"
#include "train/training_job.h"

namespace lockstep {

namespace {

// Refuses a checkpoint of another model; warns where samples that are evaluated may have been trained on.
void compare_with_checkpoint(const State& state, const TrainingJob::Description& description,
                             const RunSettings& settings, const RunData& data, const std::string& path) {
  for (const SettingChange& change :
       configuration_changes(state.configuration, description.text, description.at_default)) {
    if (defines_model(change.key) && !change.by_default) {
      fail(ErrorKind::kCheckpoint,
           fmt::format("{}: {}; an evaluation needs the model that was trained", path, change.text));
    }
  }
  // The digest covers which samples are on which side of the split.
  const auto digest = state.scalars.find("/data/digest");
  if (settings.validation_fraction > 0.0 &&
      (digest == state.scalars.end() || digest->second != Scalar(data.digest))) {
    log_warning(
        fmt::format("{}: was trained on other data or another split of it (run.seed, "
                    "data.validation_fraction): samples evaluated here may have been trained on",
                    path));
  }
}

}  // namespace

CheckpointEvaluation evaluate_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                         Communicator& communicator, std::string& weights) {
  TrainingJob job;
  std::optional<WorkerDevice> device;
  std::unique_ptr<Replica> replica;
  std::optional<Objective> objective;
  TrainingJob::Description description;
  RunData data;
  State state;  // on rank 0
  run_agreed(
      communicator,
      [&] {
        job = read_training_job(configuration);
        const RunSettings& settings = job.settings;
        set_threads(static_cast<int>(settings.threads));
        device.emplace(settings, communicator);
        data = read_run_data(settings);
        replica = std::make_unique<Replica>(job, data.shape, device->backend(), communicator);
        check_indices(data, replica->model->index_limit());
        job.schedule({});  // reads its keys
        description = job.describe();
        objective.emplace(settings.loss, data.shape, settings.parameters(), device->backend());
        if (communicator.rank() > 0) return;
        state = read_checkpoint(checkpoint);
        if (weights.empty()) weights = has_average(state) ? "averaged" : "trained";
        if (weights == "averaged" && !has_average(state)) {
          fail(ErrorKind::kUsage, checkpoint + ": --weights averaged: it has no averaged weights");
        }
      },
      "evaluation set-up");
  broadcast_text(communicator, weights, "weights");
  restore_parameters(*replica, state, weights == "averaged", checkpoint, communicator);
  std::string columns = columns_text(state);
  broadcast_text(communicator, columns, "columns");
  run_agreed(
      communicator,
      [&] {
        match_columns(data, columns, checkpoint);
        if (communicator.rank() > 0) return;
        compare_with_checkpoint(state, description, job.settings, data, checkpoint);
      },
      "checkpoint");
  communicator.set_timeout(job.settings.timeout_seconds);
  device->connect();
  run_agreed(
      communicator, [&] { compare_workers(communicator, description.text, data); }, "configuration");
  agree_on_plans(device->backend().plans(), communicator, {state.plans, false, {}}, {});
  const AutocastScope autocast(job.settings.compute);
  // A mean of weights has no statistics of its own.
  const auto type = state.scalars.find("/average/type");
  std::string average = type != state.scalars.end() ? std::get<std::string>(type->second) : "";
  broadcast_text(communicator, average, "average");
  if (weights == "averaged" && average == name_of(AverageSettings::Type::kSwa)) {
    Tensor statistics = replica->store.statistic_values();
    statistics.assign(mean_statistics(*replica, *objective, *data.train, job.settings, communicator));
  }
  CheckpointEvaluation evaluation;
  evaluation.on_validation = data.validation != nullptr;
  evaluation.classification = objective->classification();
  evaluation.result = evaluate(*replica, *objective, data.validation ? *data.validation : *data.train,
                               job.settings.micro_batch_size, communicator);
  return evaluation;
}

}  // namespace lockstep
