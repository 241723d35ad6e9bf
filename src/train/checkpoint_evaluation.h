// Evaluation of a checkpoint, apart from any run.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "core/configuration.h"
#include "train/evaluation.h"

namespace lockstep {

struct CheckpointEvaluation {
  EvaluationResult result;
  bool on_validation = false;   // else on the training data
  bool classification = false;  // accuracy means something
};

// Evaluates a checkpoint on the validation data of the configuration, or on its training data when it has
// none. Rank 0 alone reads the file. weights: "averaged" or "trained"; "" becomes "averaged" where the
// checkpoint has averaged weights, else "trained". Error (kCheckpoint) when the configuration's model is not
// the one that was trained; a warning when the validation samples are split off otherwise than they were in
// training. Collective.
CheckpointEvaluation evaluate_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                         Communicator& communicator, std::string& weights);

}  // namespace lockstep
