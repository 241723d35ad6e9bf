// What a run asks and tells the program that has it: TrainOptions' functions.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

#include "lockstep/train/trainer.h"

namespace lockstep {

class Callbacks {
 public:
  // The options must outlive the object.
  explicit Callbacks(const TrainOptions& options) : options_(options) {}

  // From now on what they throw is kept, as a wish that the run ends: it must not cost what has been trained.
  void keep() { keeps_ = true; }
  // Throws what was kept, if anything was.
  void rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

  // Why this worker wants the run to end; empty: it does not.
  std::string wants_end();
  void step(const StepMetrics& metrics);
  void evaluation(int64_t step, const EvaluationResult& result);

 private:
  template <class Call>
  void call(const Call& call);

  const TrainOptions& options_;
  bool keeps_ = false;
  std::exception_ptr thrown_;
};

}  // namespace lockstep
