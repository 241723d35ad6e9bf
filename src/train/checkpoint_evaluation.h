// Evaluation of a checkpoint, apart from any run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/train/evaluation.h"

namespace lockstep {

struct CheckpointEvaluation {
  EvaluationResult result;
  bool on_validation = false;  // else on the training data
  int64_t classes = 0;         // > 0: accuracies mean something
  std::vector<std::string> class_names;
};

// Evaluates a checkpoint on the validation data of the configuration, or on its training data when it has
// none. weights, base and errors: as those of TrainedModel; becomes the weights that were evaluated.
// Collective.
CheckpointEvaluation evaluate_checkpoint(Configuration& configuration, const std::string& checkpoint,
                                         Communicator& communicator, std::string& weights,
                                         const EvaluationWants& wants = {}, const std::string& base = "");

}  // namespace lockstep
