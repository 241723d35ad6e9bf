// A worker's replica of everything that is trained: model, parameters, optimizer, schedule; and its state as
// a checkpoint.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "core/configuration.h"
#include "nn/module.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/settings.h"

namespace lockstep {

struct Replica {
  ParameterStore store;
  std::unique_ptr<Module> model;
  std::unique_ptr<Optimizer> optimizer;
  std::vector<UpdateSegment> segments;
  ForwardContext training;  // parameters as leaves

  // Reads [model] and [optimizer]; draws the initial parameters.
  Replica(Configuration& configuration, const RunSettings& settings, const DataShape& data, Backend& backend);

  // The parameters and running statistics of an evaluation.
  ForwardContext evaluation() const { return forward_context(store, false); }
};

// Where a run stands; what a checkpoint holds besides arrays.
struct RunPosition {
  int64_t step = 0;      // steps done
  int64_t epoch = 0;     // of the next batch
  int64_t position = 0;  // batches of that epoch done
  std::string metrics;   // metrics.jsonl so far
};

// A snapshot of the replica in host memory.
State capture_state(Replica& replica, const RunSettings& settings, const RunPosition& position,
                    int64_t samples, int64_t micro_batches, const std::string& schedule_type,
                    const std::string& configuration);

// Sets the replica to a checkpoint. Every mismatch is one Error (kCheckpoint) and changes nothing: tensors
// (all of them named), and the settings that decide what the following steps are: seed, optimizer,
// micro-batches, data size.
RunPosition restore_state(Replica& replica, const State& expected, const State& found,
                          const std::string& path);

// Sets parameters and running statistics only: evaluation of a checkpoint.
void restore_parameters(Replica& replica, const State& found, const std::string& path);

}  // namespace lockstep
