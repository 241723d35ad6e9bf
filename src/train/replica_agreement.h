// What all workers must agree on: configuration and data at the start, replicas, copies and verdicts on the
// way. Every method is collective, and a failure is the same AgreedFailure on every worker.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_data.h"
#include "lockstep/train/run_state.h"

namespace lockstep {

class ReplicaAgreement {
 public:
  // Both must outlive the object.
  ReplicaAgreement(Replica& replica, Communicator& communicator)
      : replica_(replica), communicator_(communicator) {}

  // Whether any worker says so.
  bool any(bool mine, const std::string& label);

  // All workers hold the same state, or those that differ from the majority are named (kNumeric). digest:
  // RunState::replicated_digest(); of a sharded optimizer's arrays, which are nowhere twice, nothing is
  // compared.
  void compare(const std::string& digest, const std::string& when);
  // The same of the state after `step` steps. Returns its whole digest, which of a sharded optimizer is
  // worker 0's alone.
  std::string compare(const RunState& state, int64_t step);
  // The 16-bit copy that products compute with has the parameters' values, rounded (kNumeric).
  void compare_copies(int64_t step);
  // Whether this worker's parameters, statistics and optimizer state are finite. Not collective.
  bool finite() const { return statistics_finite() && values_finite(); }
  // Parameters and optimizer state are finite (kNumeric): the loss of a step tells of the update before it,
  // so the newest update is looked at by itself before it takes a checkpoint's place.
  void require_finite(int64_t step);

 private:
  bool statistics_finite() const;
  bool values_finite() const;

  Replica& replica_;
  Communicator& communicator_;
};

// Error where this worker's configuration (kUsage) or data (kData) are not those of rank 0: workers that read
// different files would part at some step, and wait for each other until the timeout.
void compare_workers(Communicator& communicator, const std::string& configuration, const RunData& data);

}  // namespace lockstep
