// What two models compute otherwise, by the keys of [model].
#pragma once

#include <string>
#include <vector>

#include "lockstep/nn/gpt.h"

namespace lockstep {

// An option that decides what a model computes, by its key in [model], where two models differ.
struct ModelDifference {
  std::string key, text;   // "rotary_theta", "rotary_theta: 10000 against 500000"
  bool in_shapes = false;  // the parameters' names or shapes differ with it
};

// The context counts for learned positions alone, where `theirs` has fewer.
std::vector<ModelDifference> model_differences(const GptOptions& ours, const GptOptions& theirs);

// Error (kCheckpoint) "PATH: is another model than WHOSE: ..." naming the differences, if there are any.
void require_none(const std::vector<ModelDifference>& differences, const std::string& path,
                  const std::string& whose);

}  // namespace lockstep
