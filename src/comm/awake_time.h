// A clock that stands still while the process is stopped.
#pragma once

#include <chrono>
#include <utility>

namespace lockstep {

// Time in which the process is not stopped: what is stopped does not find the others late as soon as it goes
// on.
class AwakeTime {
  using Clock = std::chrono::steady_clock;

 public:
  // So far; to be asked all the time.
  double seconds() {
    constexpr std::chrono::seconds kAsleep{1};
    const Clock::time_point now = Clock::now();
    const Clock::duration gap = now - std::exchange(asked_, now);
    if (gap < kAsleep) awake_ += gap;
    return std::chrono::duration<double>(awake_).count();
  }

 private:
  Clock::time_point asked_ = Clock::now();
  Clock::duration awake_{0};
};

}  // namespace lockstep
