// A run that is ready for its next step: everything that it is made of, put together, agreed on by all
// workers and, where it goes on from a checkpoint or from initial weights, filled with them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/train/callbacks.h"
#include "lockstep/train/checkpoint_copies.h"
#include "lockstep/train/data_checks.h"
#include "lockstep/train/device.h"
#include "lockstep/train/evaluator.h"
#include "lockstep/train/gradient_pass.h"
#include "lockstep/train/host_directories.h"
#include "lockstep/train/initial_weights.h"
#include "lockstep/train/model_operations.h"
#include "lockstep/train/objective.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/replica_agreement.h"
#include "lockstep/train/run_data.h"
#include "lockstep/train/run_keeper.h"
#include "lockstep/train/run_plan.h"
#include "lockstep/train/run_state.h"
#include "lockstep/train/step_end.h"
#include "lockstep/train/step_recorder.h"
#include "lockstep/train/trainer.h"

namespace lockstep {

// Whether an evaluation of this step is still to come: of a state that was written before it was made, where
// workers are lost or the validation data cannot be read. A run that resumes from it makes it first.
struct PendingEvaluation final : Checkpointed {
  bool due = false;
  bool found = false;  // in the checkpoint, by the worker that reads it
  int64_t made = -1;   // the step of the newest one

  // The state is that after `step`, of which a run makes an evaluation or none.
  void hold(int64_t step, bool evaluates) { due = evaluates && step != made; }
  void make(int64_t step) {
    due = false;
    made = step;
  }
  void describe(State& state) const override;
  void restore(const State& state, const std::string& path) override;
};

struct PreparedRun {
  // Errors as Trainer's. Collective.
  PreparedRun(TrainingJob job, const TrainOptions& options, Communicator& communicator);

  bool leader() const { return communicator.rank() == 0; }
  Backend& backend() const { return device->backend(); }

  TrainingJob job;
  TrainOptions options;
  Callbacks callbacks{options};
  Communicator& communicator;
  const RunSettings& settings;

  std::optional<WorkerDevice> device;
  RunData data;
  KeptColumns columns{data};
  BaseWeights base;
  PendingEvaluation pending;
  std::unique_ptr<Replica> replica;
  RunPlan plan;
  ModelOperations operations;
  MicroBatchRange owned;
  std::unique_ptr<Schedule> schedule;
  TrainingJob::Description description;
  std::vector<std::string> changes;  // settings that a resumed run has changed
  std::optional<Objective> objective;
  std::optional<HostDirectories> directories;
  std::optional<CheckpointCopies> copies;
  std::unique_ptr<RunKeeper> keeper;  // on rank 0; after these two, which its last write may still tell
  std::optional<GradientPass> pass;
  std::unique_ptr<StepEnd> end;
  std::optional<RunState> state;
  std::optional<ReplicaAgreement> agreement;
  std::optional<Evaluator> evaluator;
  std::optional<StepRecorder> recorder;  // where steps are recorded

  BestCheckpoint best{settings.keep_best};
  std::string begun;     // State::begun, with checkpoint.recovery_point
  int64_t done = 0;      // steps
  int64_t saved = 0;     // the step of the newest checkpoint
  bool on_disk = false;  // whether there is one of this run

 private:
  void set_up();
  // When there is memory for what a minimizer's state takes.
  void complete();
  // Before the checkpoints of an earlier run would be deleted.
  void require_recordable();
  void require_base_elsewhere() const;
  // Rank 0 reads the checkpoint; the others receive it, so that a shared file system is not needed. With
  // checkpoint.replicas it may have been on another host. Returns its path, which is empty where there is
  // none.
  std::string resume_or_start(State& found);
  // Before the checkpoints of an earlier run are set aside: it may be one of them. Under LoRA of a resumed
  // run too: its checkpoints do not hold what is frozen.
  void take_initial_weights();
  void take_initial_adapter();
  void require_fit_of_gpt() const;
  // What a resumed run does otherwise than the run that wrote the checkpoint is said; another model or
  // objective is refused. An end that other settings of the optimizer have come to is taken out.
  void compare_with_checkpoint(State& found, const std::string& path);
  // Forward and backward sweep of the next micro-batch: everything that a step's sweeps call, with no effect
  // on the run.
  // The loss that will be taken, in words; of one worker.
  std::string find_loss() const;
  void rehearse();
};

}  // namespace lockstep
