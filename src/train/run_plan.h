// How data and settings make up the global batches of a run: pure arithmetic.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/checkpoint/state.h"
#include "lockstep/data/sampler.h"
#include "lockstep/optim/optimizer.h"
#include "lockstep/optim/schedule.h"
#include "lockstep/parallel/reduction_tree.h"
#include "lockstep/train/settings.h"

namespace lockstep {

struct RunPlan {
  int64_t micro_batches = 0;  // of a global batch
  int64_t micro_batch_size = 0;
  int64_t total_steps = 0;
  int64_t steps_per_epoch = 0;
  SamplerOptions sampler;
  double validation_fraction = 0.0;  // of the data, before they were split
  int64_t tokens_of_sample = 0;      // 0: samples are no text
  bool same_batch = false;           // every step sees the same samples in the same order

  // The micro-batches of a worker. Error (kUsage) when there are more workers than micro-batches.
  MicroBatchRange owned(int rank, int world_size) const;
  // How many of them each worker has.
  std::vector<int64_t> shares(int world_size) const;
  // Epochs done after so many steps.
  double epochs(int64_t step) const {
    return static_cast<double>(step) / static_cast<double>(steps_per_epoch);
  }

  // Samples that count in so many steps.
  int64_t samples_seen(int64_t step) const;

  // Where a run stands after `step` steps, and what decides which samples and draws the following ones use.
  void describe(int64_t step, State& state) const;
};

// full_batch: of an optimizer that sees the whole training set in each step; its type is named in messages.
// tokens: of a sample, 0 where samples are no text. overlap: micro-batches that consecutive batches share.
// Error (kUsage) for combinations that make no batch, and for runs of too many steps.
RunPlan plan_run(const RunSettings& settings, int64_t samples, bool full_batch, const std::string& optimizer,
                 int64_t tokens = 0, int64_t overlap = 0);

// Of the run's optimizer. One that minimizes by itself sees the whole training set in each step, in the order
// of its file, unless train.micro_batches or train.batch_tokens ask for less.
RunPlan plan_run(const RunSettings& settings, int64_t samples, const Optimizer& optimizer, int64_t tokens);

// Error (kUsage) where the run ends before a setting would come to bear: a schedule that never sees a
// validation loss, an average that nothing enters.
void require_reachable(const RunSettings& settings, const Schedule& schedule, const RunPlan& plan,
                       bool validation);

}  // namespace lockstep
