// Waits that last longer since a quota of processor time keeps the worker that waits from looking: then the
// others wait for it, and its own part of a step tells nothing of that. (Linux takes a thread that has used
// its quota up from its core where it yields: while it waits.)
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "lockstep/core/control_groups.h"

namespace lockstep {

class QuotaDelay {
 public:
  using Clock = std::chrono::steady_clock;

  // throttled: seconds so far in which a quota has kept the process from running.
  explicit QuotaDelay(std::function<double()> throttled = [] { return throttled_seconds(); })
      : throttled_(std::move(throttled)), known_(throttled_()) {}

  void begin(Clock::time_point now) {
    looked_ = now;
    gap_ = 0.0;
  }
  // Before each look whether the wait is over.
  void look(Clock::time_point now) {
    const double gap = seconds(now - std::exchange(looked_, now));
    if (gap < kGap) return;
    const double all = throttled_();
    gap_ = std::min(gap, std::max(0.0, all - std::exchange(known_, all)));
    gap_end_ = now;
  }
  // What had come while nobody looked is found soon after; what comes later has not been kept waiting.
  void end(Clock::time_point now) {
    if (gap_ > 0.0 && seconds(now - gap_end_) <= gap_) delay_ += gap_;
  }
  // Of all waits since the last call.
  double take() { return std::exchange(delay_, 0.0); }

 private:
  static constexpr double kGap = 0.005;  // seconds; shorter ones are not worth reading counters

  static double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

  std::function<double()> throttled_;
  double known_, gap_ = 0.0, delay_ = 0.0;
  Clock::time_point looked_{}, gap_end_{};
};

}  // namespace lockstep
