// The state of the newest step, written by workers that find that others are lost
// (checkpoint.recovery_point): so a lost worker or host costs at most one step. Without a sharded optimizer
// every worker has all of it in its memory, so that nothing is copied or sent as long as all is well.
#pragma once

#include <cstdint>
#include <functional>

#include "lockstep/train/prepared_run.h"

namespace lockstep {

class RecoveryPoint {
 public:
  // read_reports: of all steps under way but the newest `left`. The run must outlive the object, which has
  // itself asked by the communicator when the job is about to end. Error (kUsage) where settings do not go
  // together.
  RecoveryPoint(PreparedRun& run, std::function<void(size_t left)> read_reports);
  ~RecoveryPoint();
  RecoveryPoint(const RecoveryPoint&) = delete;
  RecoveryPoint& operator=(const RecoveryPoint&) = delete;

  // From now on memory holds the state after this step; -1: of none. left: of the newest steps under way
  // there are no reports yet.
  void whole(int64_t step, size_t left = 0) {
    step_ = step;
    left_ = left;
  }

 private:
  // Where this worker is the first of its host that is left: a checkpoint, unless that step has one. What
  // goes wrong is a warning.
  void write();

  PreparedRun& run_;
  std::function<void(size_t)> read_reports_;
  int64_t step_ = -1;
  size_t left_ = 0;
};

}  // namespace lockstep
