// A model out of a checkpoint, on every worker, apart from any run.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "lockstep/checkpoint/state.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/train/data_outline.h"
#include "lockstep/train/device.h"
#include "lockstep/train/objective.h"
#include "lockstep/train/replica.h"
#include "lockstep/train/run_data.h"
#include "lockstep/train/training_job.h"

namespace lockstep {

// Whether TrainedModel reads the data that the configuration names although it is asked for an outline only.
// Also true where this process cannot tell: the checkpoint may be there for rank 0 alone.
bool needs_run_data(const std::string& checkpoint, std::string weights);

class TrainedModel {
 public:
  // Of the data that the configuration names: kRead them, for an evaluation; kOutline: what the checkpoint
  // keeps of them is enough, where it was written by a version that keeps it, and its weights need no
  // statistics from the samples.
  enum class Data { kRead, kOutline };
  // The configuration's model with the weights of the checkpoint, which rank 0 alone reads. weights:
  // "averaged" or "trained"; "" becomes "averaged" where the checkpoint has averaged weights, else "trained".
  // Error (kCheckpoint) when the model is not the one that was trained; a warning when validation samples are
  // split off otherwise than they were in training. full_precision: nothing is computed in 16 bits, whatever
  // precision.compute says. base: where the frozen weights of a checkpoint with [lora] are now, or those of
  // an adapter of PEFT; empty: where train.initial_weights or the adapter says. Error (kUsage): what has all
  // of its weights has no base. Both must outlive the object. Collective.
  TrainedModel(Configuration& configuration, const std::string& checkpoint, Communicator& communicator,
               std::string weights, Data data, bool full_precision = false, const std::string& base = "");

  const RunSettings& settings() const { return job_.settings; }
  // Of the data that the model was trained on.
  const DataOutline& outline() const { return outline_; }
  // kRead: with columns in the order that the model was trained with.
  const RunData& data() const { return data_; }
  const Replica& replica() const { return *replica_; }
  Replica& replica() { return *replica_; }
  const Objective& objective() const { return *objective_; }
  // Which weights it has.
  const std::string& weights() const { return weights_; }

 private:
  // What stays as it is under LoRA, from `path`. configuration: resolved. Collective.
  void load_base(const std::string& path, const std::string& configuration, const State& state,
                 const std::string& checkpoint, Communicator& communicator);

  TrainingJob job_;
  std::optional<WorkerDevice> device_;
  DataOutline outline_;
  RunData data_;  // without sources: has not been read
  std::unique_ptr<Replica> replica_;
  std::optional<Objective> objective_;
  std::string weights_;
};

}  // namespace lockstep
