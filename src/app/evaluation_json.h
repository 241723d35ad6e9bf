// What eval prints.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "lockstep/train/checkpoint_evaluation.h"

namespace lockstep {

// An object of one line; weights: "trained" or "averaged". What is no number is null.
nlohmann::ordered_json describe_evaluation(const CheckpointEvaluation& evaluation,
                                           const std::string& checkpoint, const std::string& weights,
                                           const EvaluationWants& wants);

}  // namespace lockstep
