// The state of the newest step, written by workers that find that others are lost
// (checkpoint.recovery_point): so a lost worker or host costs at most one step. Where every worker has all of
// it in its memory whenever it waits for others, nothing is copied or sent as long as all is well. Else each
// keeps a copy: a sharded optimizer's state is nowhere whole, that of steps which look at the objective many
// times, or at its curvature, changes bit by bit between messages to others, and a device that waits for
// others cannot be asked for it. Copies are ordinary memory: a device's driver need not let the process that
// writes them see any of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

#include "lockstep/checkpoint/state.h"
#include "lockstep/train/prepared_run.h"

namespace lockstep {

// Whether each worker keeps copies, of the arrays of the state of two steps.
bool keeps_copies(const PreparedRun& run);

class RecoveryPoint {
 public:
  // read_reports: of all steps under way but the newest `left`. The run must outlive the object, which has
  // itself asked by the communicator when the job is about to end. Error (kUsage) where settings do not go
  // together.
  RecoveryPoint(PreparedRun& run, std::function<void(size_t left)> read_reports);
  ~RecoveryPoint();
  RecoveryPoint(const RecoveryPoint&) = delete;
  RecoveryPoint& operator=(const RecoveryPoint&) = delete;

  // From now on memory holds the state after this step. left: of the newest steps under way there are no
  // reports yet. Collective where copies are kept of a sharded optimizer.
  void whole(int64_t step, size_t left = 0);
  bool copies() const { return copies_; }
  // Of that state all but the arrays may be another: an evaluation of the step has been made.
  void renew();

 private:
  // What of a state is not arrays.
  void describe(State& state, int64_t step) const;
  // Where this worker is the first of its host that is left: a checkpoint, unless that step or the next
  // has one. What goes wrong is a warning. Of copies on whatever thread.
  void write();

  PreparedRun& run_;
  std::function<void(size_t)> read_reports_;
  const bool copies_;
  std::mutex mutex_;  // of what follows
  int64_t step_ = -1;
  size_t left_ = 0;
  std::optional<State> copy_, room_;  // of step_; the one before, whose memory the next one takes
};

}  // namespace lockstep
