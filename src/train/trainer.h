// Training a configuration from start or checkpoint to its end, on any number of workers.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "core/configuration.h"
#include "train/evaluation.h"
#include "train/stop_signal.h"

namespace lockstep {

struct TrainOptions {
  bool resume = false;     // continue from the newest usable checkpoint of the output directory
  bool overwrite = false;  // delete the checkpoints of an earlier run in the output directory
  std::string output;      // replaces run.output when not empty
  bool progress = true;
};

enum class TrainOutcome { kFinished, kStopped };  // kStopped: a signal; everything is saved

// Every worker of the communicator calls this with the same configuration. A stop signal on any worker ends
// the run on all after the step under way; `stop` should outlive the communicator, so that a signal that
// comes late harms nothing. Failures that all workers know of are AgreedFailure; any other exception is this
// worker's own, and the caller must abort the communicator.
TrainOutcome train(Configuration& configuration, const TrainOptions& options, const StopSignal& stop,
                   Communicator& communicator);

struct CheckpointEvaluation {
  EvaluationResult result;
  bool on_validation = false;   // else on the training data
  bool classification = false;  // accuracy means something
};

// Evaluates a checkpoint on the validation data of the configuration, or on its training data when it has
// none. weights: "averaged" or "trained"; "" becomes "averaged" where the checkpoint has averaged weights,
// else "trained". Error (kCheckpoint) when the configuration's model is not the one that was trained; a
// warning when the validation samples are split off otherwise than they were in training.
CheckpointEvaluation evaluate_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                         Communicator& communicator, std::string& weights);

}  // namespace lockstep
