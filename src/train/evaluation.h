// Evaluation of a model on a data set, shared out over the workers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/data/data_source.h"
#include "lockstep/train/metrics_log.h"
#include "lockstep/train/objective.h"
#include "lockstep/train/replica.h"

namespace lockstep {

class OverflowCheck;

// What is asked for beside the loss and accuracies.
struct EvaluationWants {
  bool confusion = false, by_position = false;
  OverflowCheck* overflow =
      nullptr;  // that of the data, which looks at all samples and tells; null: nobody does
};

struct EvaluationResult {
  double loss = 0.0;    // mean over the targets, by their weights; NaN: none counts
  int64_t samples = 0;  // of a classification: targets that count, one a sample as a rule
  // Classification only, of those.
  double accuracy = 0.0;  // share predicted right
  double top5_accuracy =
      0.0;  // share whose label is among the five largest logits; of more than five classes
  std::vector<int64_t> confusion = {};  // (classes, classes), label by prediction; where it was asked for
  std::optional<TextLoss> text = {};    // of text
  // (positions) the mean loss of each, NaN where none counts; where it was asked for.
  std::vector<double> position_losses = {};
};

// Rows of a source as a micro-batch of `size`, filled up with the last one.
MicroBatch gather_batch(const DataSource& data, std::span<const int64_t> rows, int64_t size);

// The same where workers wait for each other's sums: samples that cannot be had are one worker's find, and
// everybody's end once the others have what they wait for.
class AgreedGather {
 public:
  // The data must outlive the object.
  explicit AgreedGather(const DataSource& data) : data_(data) {}
  // Zeros from the first samples on that this worker cannot have.
  MicroBatch operator()(std::span<const int64_t> rows, int64_t size);
  // AgreedFailure (kData) where some worker has not got its samples. Collective.
  void agree(Communicator& communicator, const std::string& label) const;

 private:
  const DataSource& data_;
  std::optional<Error> missing_;
};

// Chunks of `chunk` samples are dealt out in contiguous ranges; their sums are added in chunk order in fp64,
// so that the result is the same bits on any number of workers. Every worker gets it.
EvaluationResult evaluate(const Replica& replica, const Objective& objective, const DataSource& data,
                          int64_t chunk, Communicator& communicator, const EvaluationWants& wants = {});

// The running statistics (statistic_extent) that fit the replica's present weights: means of the micro-batch
// statistics over all training data in a shuffled order, the last micro-batch filled up from its start. What
// stochastic weight averaging asks for, whose weights no training step has seen (Izmailov et al. 2018,
// section 3.2). The same bits on any number of workers. Dropout is at work as in training.
Tensor mean_statistics(Replica& replica, const DataSource& data, const RunSettings& settings,
                       Communicator& communicator);

}  // namespace lockstep
