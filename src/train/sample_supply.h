// The samples of a run's steps, brought to the device a step ahead, and what is to be done where a worker
// does not get them: a damaged file must not cost the others what has been trained.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "lockstep/comm/communicator.h"
#include "lockstep/data/loader.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/input_queue.h"
#include "lockstep/train/overflow_check.h"
#include "lockstep/train/run_plan.h"
#include "lockstep/train/settings.h"

namespace lockstep {

class SampleSupply {
 public:
  // Of the micro-batches that this worker owns, from step `first` on; all must outlive the object.
  SampleSupply(const DataSource& data, const RunPlan& plan, const RunSettings& settings,
               MicroBatchRange owned, int64_t first, Backend& backend, Communicator& communicator);

  // Has the samples of the next step brought. What keeps this worker from having them is kept for agree().
  void stage();
  // What stage() has seen of inputs that the model cannot have as they are.
  OverflowCheck& overflow() { return overflow_; }
  // Whether stage(), called next, will have them for certain: what workers tell each other with each step.
  bool certain() const { return loader_.ready(); }
  // Where not all workers were certain: whether some have not got what stage() should have brought. The same
  // on every worker. Collective.
  bool agree();
  // What agree() has found.
  const std::optional<AgreedFailure>& failure() const { return failure_; }

  // Turns to what was staged, if anything was: the same samples stay where they are.
  void next();
  const InputQueue& inputs() const { return inputs_; }
  // That the samples took since the last call of take_seconds().
  double seconds() const { return seconds_; }
  double take_seconds() { return std::exchange(seconds_, 0.0); }

 private:
  const std::string source_;
  Communicator& communicator_;
  const SamplerOptions order_;
  Loader loader_;
  OverflowCheck overflow_;
  InputQueue inputs_;
  bool staged_ = false;  // the samples of the step to come, beside those of the one before
  double seconds_ = 0.0;
  std::optional<Error> missing_;  // why this worker has not got them
  std::optional<AgreedFailure> failure_;
};

}  // namespace lockstep
