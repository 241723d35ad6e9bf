// Agreeing on what was thrown.
#include "lockstep/train/step_failure.h"

#include <fmt/format.h>

namespace lockstep {

bool StepFailure::none_of(int64_t step, const std::function<void()>& part) {
  try {
    part();
    return true;
  } catch (const AgreedFailure& failure) {
    agreed_.emplace(failure.kind(), fmt::format("step {}: {}", step, failure.what()), failure.speaks());
    return false;
  }
}

void StepFailure::agree(int64_t step) {
  none_of(step, [&] {
    run_agreed(
        communicator_,
        [&] {
          if (mine_) std::rethrow_exception(mine_);
        },
        "step");
  });
}

void StepFailure::change(const std::function<void()>& part) {
  is_whole_ = false;
  part();
  is_whole_ = true;
}

void StepFailure::require_whole(int64_t done) const {
  if (is_whole_) return;
  fail(ErrorKind::kUsage, fmt::format("step {}: its update has failed on the way: there is no state to go on "
                                      "from or to save; resume from a checkpoint",
                                      done));
}

}  // namespace lockstep
