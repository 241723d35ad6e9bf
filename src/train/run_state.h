// The state of a run, into and out of checkpoints: what every part of it adds, under which names, and what a
// resumed run must have in common with the one that wrote the file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_plan.h"

namespace lockstep {

// A part of a run that keeps numbers of its own in checkpoints.
class Checkpointed {
 public:
  virtual ~Checkpointed() = default;
  // Adds its scalars.
  virtual void describe(State& state) const = 0;
  // Sets it to a checkpoint's. Error (kCheckpoint), naming `path`, when one is missing.
  virtual void restore(const State& found, const std::string& path) = 0;
};

// Numbers under a group: "/guard/" and {"skipped": 2} are the scalar "/guard/skipped".
void put_numbers(State& state, const std::string& group, const std::map<std::string, double>& values);
// Those with the names of `current`. Error (kCheckpoint) when one is missing.
std::map<std::string, double> take_numbers(const State& state, const std::string& group,
                                           std::map<std::string, double> current, const std::string& path);

// Where a snapshot has the bytes of arrays: on worker 0 alone; there, but for those that it has whole, which
// stay where they are (StateArray::elsewhere), for as long as nothing changes them; on every worker.
enum class Snapshot : uint8_t { kOnWorkerZero, kInPlace, kOnEveryWorker };

class RunState {
 public:
  // Everything must outlive the object. configuration: TOML text.
  RunState(Replica& replica, const RunPlan& plan, std::string data_digest, std::string configuration,
           std::vector<Checkpointed*> parts);

  // After `step` steps, without the bytes of arrays: what a checkpoint has to have. Never collective.
  State describe(int64_t step) const;
  // A snapshot in host memory. With a sharded optimizer it is collective. room: an earlier one, whose memory
  // may be used.
  State capture(int64_t step, Snapshot kind = Snapshot::kOnWorkerZero, State room = {}) const;
  // Of its arrays.
  int64_t bytes() const;
  // What a snapshot takes of worker 0's memory, and beside it to be compared with the file.
  int64_t snapshot_bytes() const;
  // state_digest() of what capture() gives, by way of a few megabytes of host memory. With a sharded
  // optimizer it is collective, and worker 0's alone means something.
  std::string whole_digest(int64_t step) const { return digest(step, true); }
  // The same of what every worker holds a copy of: all, but for a sharded optimizer's arrays. Never
  // collective.
  std::string replicated_digest(int64_t step) const;

  // Error (kCheckpoint) unless the tensors of the checkpoint at `path` are the run's, all others named.
  void require_fit(const State& found, const std::string& path) const;
  // Sets everything but arrays to a checkpoint and returns its step. Every mismatch is one Error
  // (kCheckpoint) and changes nothing: tensors (all of them named), and what decides which samples and draws
  // the following steps use: seed, optimizer, micro-batches, data.
  int64_t restore(const State& found, const std::string& path);
  // The same on every worker, arrays included, where rank 0 has done the above and read `found`; `step` is
  // rank 0's. Returns the step. Collective.
  int64_t distribute(int64_t step, const State& found, const std::string& path, Communicator& communicator);

 private:
  std::string digest(int64_t step, bool whole) const;

  Replica& replica_;
  const RunPlan& plan_;
  std::string data_digest_, configuration_;
  std::vector<Checkpointed*> parts_;
};

// Whether the state has averaged weights.
bool has_average(const State& state);
// Parameters and running statistics, trained or averaged ones of a checkpoint, as "/parameters/NAME" and
// "/statistics/NAME".
State weights_of(const State& found, bool averaged);
// Sets parameters and running statistics, to the trained or the averaged ones of a checkpoint that worker 0
// alone needs to have. without: patterns (matches_pattern) of the names of those that stay as they are, and
// may be missing there or of another shape. A replica in fp64 takes fp32, whose numbers it holds, and none in
// fp32 takes fp64. Error (kCheckpoint) on every worker, naming all tensors that do not fit. Collective.
void restore_parameters(Replica& replica, const State& found, bool averaged, const std::string& path,
                        Communicator& communicator, const std::vector<std::string>& without = {});

}  // namespace lockstep
