// A worker's replica of everything that is trained: model, parameters, optimizer, schedule; and its state as
// a checkpoint.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "comm/communicator.h"
#include "core/configuration.h"
#include "nn/module.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "optim/weight_average.h"
#include "parallel/parameter_shards.h"
#include "train/lowered_parameters.h"
#include "train/settings.h"

namespace lockstep {

struct Replica {
  ParameterStore store;
  std::unique_ptr<Module> model;
  std::unique_ptr<Optimizer> optimizer;
  std::vector<UpdateSegment> segments;
  ForwardContext training;  // parameters as leaves
  // Which elements this worker updates, and keeps optimizer state and averages of: all of them, unless
  // parallel.shard_optimizer.
  std::unique_ptr<ParameterShards> shards;
  std::optional<WeightAverage> average;
  size_t optimizer_bytes = 0;  // that the optimizer has allocated on this worker
  // Where precision.compute is bf16 or fp16: what `training` computes with.
  std::optional<LoweredParameters> lowered;

  // Reads [model] and [optimizer]; draws the initial parameters. The communicator must outlive the replica.
  Replica(Configuration& configuration, const RunSettings& settings, const DataShape& data, Backend& backend,
          Communicator& communicator);

  // What an AutocastScope is to be given, up to date: null without `lowered`.
  const AutocastScope::Copies* current_copies() { return lowered ? &lowered->current() : nullptr; }
  // One update of this worker's parameters, and then of all from those who own them. Takes parameters,
  // segments and the copy from the replica. Collective when the optimizer is sharded; may be recorded.
  void update(UpdateContext context);

  // The parameters and running statistics of an evaluation.
  ForwardContext evaluation() const { return forward_context(store, false); }

 private:
  std::unique_ptr<Communicator> alone_;  // of shards that are one worker's
};

// Where a run stands; what a checkpoint holds besides arrays.
struct RunPosition {
  int64_t step = 0;      // steps done
  int64_t epoch = 0;     // of the next batch
  int64_t position = 0;  // batches of that epoch done
  std::string metrics;   // metrics.jsonl so far
};

// A snapshot of the replica in host memory. With a sharded optimizer it is collective, and arrays have bytes
// on worker 0 only.
State capture_state(Replica& replica, const RunSettings& settings, const RunPosition& position,
                    int64_t samples, int64_t micro_batches, const std::string& schedule_type,
                    const std::string& configuration);
// The same without the bytes of arrays: what a checkpoint of this run has to have. Never collective.
State describe_state(Replica& replica, const RunSettings& settings, const RunPosition& position,
                     int64_t samples, int64_t micro_batches, const std::string& schedule_type,
                     const std::string& configuration);
// What every worker holds a copy of, whatever the sharding: parameters and running statistics.
State capture_parameters(Replica& replica);

// Sets the replica's counters to a checkpoint and returns its position. Every mismatch is one Error
// (kCheckpoint) and changes nothing: tensors (all of them named), and the settings that decide what the
// following steps are: seed, optimizer, micro-batches, data size.
RunPosition restore_scalars(Replica& replica, const State& expected, const State& found,
                            const std::string& path);
// Sets the replica's arrays to those of `found`, which only worker 0 needs to have and has checked by
// restore_scalars. Collective.
void restore_arrays(Replica& replica, const State& found, Communicator& communicator);

// Whether the state has averaged weights.
bool has_average(const State& state);
// Sets parameters and running statistics only, to the trained or the averaged ones: evaluation of a
// checkpoint.
void restore_parameters(Replica& replica, const State& found, bool averaged, const std::string& path);

}  // namespace lockstep
