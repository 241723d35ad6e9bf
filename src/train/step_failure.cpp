// Agreeing on what was thrown.
#include "lockstep/train/step_failure.h"

#include <fmt/format.h>

namespace lockstep {

void StepFailure::agree(int64_t step) {
  try {
    run_agreed(
        communicator_,
        [&] {
          if (mine_) std::rethrow_exception(mine_);
        },
        "step");
  } catch (const AgreedFailure& failure) {
    keep(failure, step);
  }
}

void StepFailure::keep(const AgreedFailure& failure, int64_t step) {
  agreed_.emplace(failure.kind(), fmt::format("step {}: {}", step, failure.what()), failure.speaks());
}

}  // namespace lockstep
