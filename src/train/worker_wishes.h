// What this worker wants of the run under way: that it ends before its time, by a stop request or the clock,
// or that it saves. What the clock decides, it decides on rank 0.
#pragma once

#include <chrono>
#include <string>

#include "lockstep/train/prepared_run.h"

namespace lockstep {

class WorkerWishes {
 public:
  // The clock begins. The run must outlive the object.
  explicit WorkerWishes(PreparedRun& run) : run_(run) {}

  // Whether this worker wants the run to end: once it has wanted it, always.
  bool end();
  // Why; empty: it does not, or the clock has not been asked. A signal may have reached this worker only
  // after another one's.
  const std::string& reason();
  // Whether it wants a checkpoint; one was begun.
  bool save() const;
  void saved() { saved_at_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;

  bool has_passed(double minutes, Clock::time_point since) const;

  PreparedRun& run_;
  const Clock::time_point started_ = Clock::now();
  Clock::time_point saved_at_ = started_;
  std::string reason_;
};

}  // namespace lockstep
