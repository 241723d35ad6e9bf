// A worker's replica of everything that is trained: model, parameters, optimizer, averages.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "lockstep/comm/communicator.h"
#include "lockstep/nn/module.h"
#include "lockstep/optim/optimizer.h"
#include "lockstep/optim/weight_average.h"
#include "lockstep/parallel/parameter_shards.h"
#include "lockstep/train/lowered_parameters.h"
#include "lockstep/train/training_job.h"

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
  size_t optimizer_bytes = 0;   // that the optimizer has allocated on this worker
  DType compute = DType::kF32;  // precision.compute
  // Where that is bf16 or fp16: what `training` computes with.
  std::optional<LoweredParameters> lowered;

  // Where the store holds others for a while, averages that are evaluated, say: the run's own parameters and
  // statistics. Undefined: the store's are.
  Tensor trained, running;

  // Builds the job's model and optimizer; draws the initial parameters. The communicator must outlive the
  // replica.
  Replica(const TrainingJob& job, const DataShape& data, Backend& backend, Communicator& communicator);

  // Gives the frozen parameter at this place of store.frozen() its values.
  void freeze(size_t place, const Tensor& values);
  // What an AutocastScope is to be given, up to date: null without `lowered`.
  const AutocastScope::Copies* current_copies() { return lowered ? &lowered->current() : nullptr; }
  // One update of this worker's parameters, and then of all from those who own them. Takes parameters,
  // segments and the copy from the replica. Collective when the optimizer is sharded; may be recorded.
  void update(UpdateContext context);

  // The parameters and statistics that are the run's state, wherever they are.
  Tensor parameters_of_state() const;
  Tensor statistics_of_state() const { return running.defined() ? running : store.statistic_values(); }

  // The parameters and running statistics of an evaluation.
  ForwardContext evaluation() const { return forward_context(store, false); }

 private:
  std::unique_ptr<Communicator> alone_;  // of shards that are one worker's
};

}  // namespace lockstep
