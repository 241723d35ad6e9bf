// Training from start or checkpoint to its end, on any number of workers: the loop and what hangs on it. Each
// part of the work is a class of its own (GradientPass, StepEnd, StepLog, Evaluator, RunKeeper, ...); the
// trainer calls them in turn.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/train/evaluation.h"
#include "lockstep/train/metrics_log.h"
#include "lockstep/train/stop_signal.h"
#include "lockstep/train/training_job.h"

namespace lockstep {

struct TrainOptions {
  bool resume = false;         // continue from the newest usable checkpoint of the output directory
  bool resume_if_any = false;  // the same where it holds a checkpoint; else begin
  // Delete the checkpoints of an earlier run in the output directory; not with either of the above.
  bool overwrite = false;
  std::string output = {};  // replaces run.output when not empty
  bool progress = false;    // on rank 0's stderr: a line that is rewritten on a terminal, or the log

  // Asked after every step, and by run() within those of minimizers: why this worker wants the run to end,
  // "SIGTERM" for example; empty: go on. One worker that wants it is enough. A program that leaves its
  // signals to Lockstep asks a StopSignal.
  std::function<std::string()> stop = {};
  // Called on every worker where a line of the metrics is due, and after every evaluation during run(). What
  // these three throw during run() comes out of it on this worker once the step under way, or the next one,
  // has been saved and all is finished, as if the worker had wanted the run to end; of step() at once.
  std::function<void(const StepMetrics& metrics)> on_step = {};
  std::function<void(int64_t step, const EvaluationResult& result)> on_evaluation = {};
  // Gives the backend through which this worker reaches the one that its settings choose
  // (kernels/timed_backend.h). It must stay as long as the process.
  std::function<Backend&(Backend& chosen)> backend = {};
};

enum class TrainOutcome { kFinished, kStopped };  // kStopped: options.stop; everything is saved

// Every worker of the communicator makes one of the same job and calls the same methods, all of which are
// collective. Failures that all workers know of are AgreedFailure; any other exception is this worker's own,
// and the caller must abort the communicator.
class Trainer {
 public:
  // Sets up, and resumes where options say so. Error (kUsage, kData, kCheckpoint) where something does not
  // fit together; nothing has been deleted or written then. The communicator must outlive the trainer.
  Trainer(TrainingJob job, const TrainOptions& options, Communicator& communicator);
  ~Trainer();

  int64_t steps_done() const;
  int64_t total_steps() const;
  // Why no further step would change anything, of an optimizer that minimizes until there is nothing left to
  // gain; empty: some may.
  std::string ended() const;

  // One optimizer step. Neither evaluates nor saves. Error (kNumeric) when training diverged; on a GPU it may
  // be one of the steps before that is found out about. AgreedFailure (kData) before anything is done where
  // some worker cannot have its samples, and of the kind of what its model throws in the sweeps of a step
  // that is not recorded: the steps before can still be saved.
  void step();
  // The mean loss on the validation data, of averaged weights where there are any; logged. Error (kUsage)
  // without validation data. Only run() shows the result to a schedule that follows it (plateau) and to
  // checkpoint.keep_best: in a loop of a program's own the one never falls and the other keeps nothing.
  EvaluationResult evaluate();
  // Writes a checkpoint, in the background. Error (kNumeric), and nothing is written, when the newest update
  // left something that is not finite.
  void save();
  // All steps that are left, or those until ended() says why there are no more, with the evaluations, digests
  // and checkpoints that settings ask for; then finish(). Where the samples of a step cannot be had, or its
  // model throws, what has been trained is saved and finished before the AgreedFailure of step().
  TrainOutcome run();
  // Everything on disk, the loss plot included, before any worker returns.
  void finish();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// The run that a configuration describes: makes a trainer and runs it. A stop signal on any worker, or
// options.stop, ends the run on all after the step under way; `stop` should outlive the communicator, so that
// a signal that comes late harms nothing.
TrainOutcome train(Configuration& configuration, const TrainOptions& options, const StopSignal& stop,
                   Communicator& communicator);

}  // namespace lockstep
