// Evaluation of a model on a data set, shared out over the workers.
#pragma once

#include <cstdint>

#include "comm/communicator.h"
#include "train/objective.h"
#include "train/replica.h"

namespace lockstep {

struct EvaluationResult {
  double loss = 0.0;      // mean over the samples
  double accuracy = 0.0;  // share predicted right; classification only
  int64_t samples = 0;
};

// Chunks of `chunk` samples are dealt out in contiguous ranges; their sums are added in chunk order in fp64,
// so that the result is the same bits on any number of workers. Every worker gets it.
EvaluationResult evaluate(const Replica& replica, const Objective& objective, const Dataset& dataset,
                          int64_t chunk, Communicator& communicator);

}  // namespace lockstep
