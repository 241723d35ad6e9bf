// Which of a configuration's data commands look at.
#pragma once

#include <cstdint>

namespace lockstep {

// Of the training data or the validation data, in an order shuffled by run.seed: so many samples, or
// micro-batches of the configuration's size; 0: all there are.
struct DataPart {
  bool validation = false;
  int64_t samples = 0, micro_batches = 0;
};

}  // namespace lockstep
