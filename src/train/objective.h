// The training objective: which loss compares a model's output with the targets, and what counts as right in
// evaluation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/data/loader.h"
#include "lockstep/nn/module.h"
#include "lockstep/tensor/tensor.h"
#include "lockstep/train/objective_options.h"

namespace lockstep {

// A micro-batch whose samples are on the device.
struct DeviceBatch {
  int64_t number = 0;  // in the global batch
  int64_t valid = 0;   // samples that count
  Tensor inputs;       // (B, sample...)
  Tensor targets;      // (B) int32 labels of classes, else (B, targets)
  Tensor weights;      // (B): 1 for samples that count, 0 for padding; undefined when all count
};

class Objective {
 public:
  // loss: "cross_entropy", "logistic", "mean_squared_error", or "auto": logistic when a model gives one logit
  // for two classes, cross_entropy for classes, else mean_squared_error. Error (kUsage) when it does not fit
  // the data.
  Objective(std::string loss, const DataShape& data, DType dtype, Backend& backend,
            const ObjectiveOptions& options = {});

  bool classification() const { return data_.classes > 0; }

  // The inputs of a micro-batch as a tensor (B, sample...), on the device.
  Tensor inputs(const MicroBatch& batch) const;
  // One loss a sample (B), times its weight; padding samples have loss 0. Labels are smoothed. Error (kUsage)
  // when the output's shape does not fit the targets.
  Tensor losses(const Tensor& output, const DeviceBatch& batch) const { return losses(output, batch, true); }
  // Of samples in host memory, as an evaluation wants it: labels are not smoothed.
  Tensor losses(const Tensor& output, const MicroBatch& batch) const;
  // What the samples of the batch that count weigh together.
  double weight(const MicroBatch& batch) const;
  // What the losses of a micro-batch add to the objective, in the device's memory: (2) fp64, the sum of the
  // losses, which are times their weights already, and that of the weights.
  Tensor sums(const Tensor& losses, const DeviceBatch& batch) const;
  static constexpr int64_t kSums = 2;
  // The class that each of the first `count` samples is predicted to be of: the first of equal logits wins; a
  // row with a logit that is not a number predicts none, -1.
  std::vector<int32_t> predicted_classes(const Tensor& output, int64_t count) const;
  static constexpr int64_t kTop = 5;
  struct Counts {
    int64_t correct = 0;  // samples that are predicted right
    int64_t in_top = 0;   // whose label is among the kTop largest logits; of more than kTop classes
    // (classes, classes), label by prediction; of size 0: not wanted.
    std::vector<int64_t> confusion = {};
  };
  // Adds the samples that count, of a classification.
  void count(const Tensor& output, const MicroBatch& batch, Counts& counts) const;

 private:
  bool single_logit(const Tensor& output) const;
  Tensor losses(const Tensor& output, const DeviceBatch& batch, bool smoothed) const;
  // (B); undefined where all are 1.
  Tensor weights(const DeviceBatch& batch) const;

  std::string loss_;
  DataShape data_;
  DType dtype_;
  Backend* backend_;
  ObjectiveOptions options_;
  Tensor class_weights_;  // (classes, 1); undefined where all are 1
};

}  // namespace lockstep
