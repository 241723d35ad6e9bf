// Language models that choose among endings.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/text/tokenizer.h"

namespace lockstep {

struct ChoiceEvaluation {
  int64_t questions = 0;
  double accuracy = 0.0;             // share whose right ending is the likeliest: the least sum of losses
  double accuracy_normalized = 0.0;  // the least mean loss a token, as llm.c tells it
  int64_t shortened = 0;             // questions whose context lost its beginning to fit the model
};

// The model of a checkpoint on a file of choices (text/choices.h). Of equal losses the first ending wins.
// tokenizer: of JSON lines; "" for llm.c's file. The model must be of text, and of this tokenizer where the
// checkpoint knows its own. weights, base: as TrainedModel; becomes those that were evaluated. The same on
// any number of workers. Errors as read_choices() and TrainedModel; kData for an ending that does not fit the
// model's context, and for a token outside of its vocabulary. Collective.
ChoiceEvaluation evaluate_choices(Configuration& configuration, const std::string& checkpoint,
                                  const std::string& choices, const TokenizerOptions& tokenizer,
                                  Communicator& communicator, std::string& weights,
                                  const std::string& base = "");

}  // namespace lockstep
