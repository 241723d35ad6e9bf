// The training objective: which loss compares a model's output with the targets, and what counts as right in
// evaluation.
#pragma once

#include <cstdint>
#include <string>

#include "data/loader.h"
#include "nn/module.h"
#include "tensor/tensor.h"

namespace lockstep {

// A micro-batch on the device, as the host has it: rows of 32-bit numbers. Of the tensors those are defined that the data
// set has.
struct DeviceBatch {
  int64_t size = 0;  // samples
  Tensor inputs;     // (B, sample...)
  Tensor labels;     // (B) int32
  Tensor targets;    // (B, targets)
  Tensor weights;    // (B): 1 for samples that count, 0 for padding; undefined when all count
};

class Objective {
 public:
  // loss: "cross_entropy", "logistic", "mean_squared_error", or "auto": logistic when a model gives one logit
  // for two classes, cross_entropy for classes, else mean_squared_error. Error (kUsage) when it does not fit
  // the data.
  Objective(std::string loss, const DataShape& data, DType dtype, Backend& backend);

  bool classification() const { return data_.classes > 0; }

  // Copies to the device: into the tensors of `into` where it has them, of the same size and padded or not like the
  // batch; new ones else.
  void upload(const MicroBatch& batch, DeviceBatch& into) const;
  DeviceBatch upload(const MicroBatch& batch) const;
  // The inputs of a micro-batch as a model takes them: (B, sample...).
  Tensor inputs(const DeviceBatch& batch) const;
  // One loss a sample (B); padding samples have loss 0. Error (kUsage) when the output's shape does not fit
  // the targets.
  Tensor losses(const Tensor& output, const DeviceBatch& batch) const;
  // Among the samples that count, those whose class is predicted right (the first of equal logits wins).
  int64_t correct(const Tensor& output, const MicroBatch& batch) const;

 private:
  bool single_logit(const Tensor& output) const;

  std::string loss_;
  DataShape data_;
  DType dtype_;
  Backend* backend_;
};

}  // namespace lockstep
