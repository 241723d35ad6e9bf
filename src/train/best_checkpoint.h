// Which evaluation of a run was the best so far, so that its checkpoint stays.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/train/evaluation.h"

namespace lockstep {

class BestCheckpoint {
 public:
  // metric: "validation_loss", "validation_accuracy", or "" for none, which no evaluation is the best by.
  explicit BestCheckpoint(std::string metric) : metric_(std::move(metric)) {}

  // Whether this evaluation is better than all before; it is the best from now on then. One of no samples, or
  // whose loss is no number, is not.
  bool observe(int64_t step, const EvaluationResult& result);
  // Of the best; -1: there is none.
  int64_t step() const { return step_; }

  // "validation_loss 440 0.25", for the checkpoint; "" where there is none.
  std::string text() const;
  // The best of such a text. One by another metric, or of another form, is forgotten.
  void restore(const std::string& text);
  void forget() { step_ = -1; }

 private:
  std::string metric_;
  int64_t step_ = -1;
  double value_ = 0.0;
};

}  // namespace lockstep
