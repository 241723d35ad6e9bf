// The training objective: which loss compares a model's output with the targets, and what counts as right in
// evaluation.
#pragma once

#include <cstdint>
#include <string>

#include "data/loader.h"
#include "nn/module.h"
#include "tensor/tensor.h"

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
  Objective(std::string loss, const DataShape& data, DType dtype, Backend& backend);

  bool classification() const { return data_.classes > 0; }

  // The inputs of a micro-batch as a tensor (B, sample...), on the device.
  Tensor inputs(const MicroBatch& batch) const;
  // One loss a sample (B); padding samples have loss 0. Error (kUsage) when the output's shape does not fit
  // the targets.
  Tensor losses(const Tensor& output, const MicroBatch& batch) const;
  // The same of samples that wait on the device (train/input_queue.h).
  Tensor losses(const Tensor& output, const DeviceBatch& batch) const;
  // What the losses of a micro-batch add to the objective, in the device's memory: (2) fp64, the sum of the
  // losses, which are times their weights already, and that of the weights.
  Tensor sums(const Tensor& losses, const DeviceBatch& batch) const;
  static constexpr int64_t kSums = 2;
  // Among the samples that count, those whose class is predicted right (the first of equal logits wins; a row
  // with a logit that is not a number predicts none).
  int64_t correct(const Tensor& output, const MicroBatch& batch) const;

 private:
  bool single_logit(const Tensor& output) const;

  std::string loss_;
  DataShape data_;
  DType dtype_;
  Backend* backend_;
};

}  // namespace lockstep
