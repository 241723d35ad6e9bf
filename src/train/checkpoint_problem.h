// The objective of a trained model over its data as one problem: what is looked at around a checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/data/permutation.h"
#include "lockstep/train/data_part.h"
#include "lockstep/train/evaluation.h"
#include "lockstep/train/pass_problem.h"
#include "lockstep/train/trained_model.h"

namespace lockstep {

// The training's objective (smoothed labels, class weights, train.l2) with the model as in evaluation: no
// dropout, batch norm by its running statistics. In fp64 or fp32: 16-bit configurations are looked at in
// fp32, their masters' type.
class CheckpointProblem {
 public:
  // who: the command, in messages. weights, base: those of TrainedModel; weights becomes which they are.
  // Error (kUsage) where there are no such data or fewer micro-batches than workers, and those of
  // TrainedModel. The configuration and the communicator must outlive the object. Collective.
  CheckpointProblem(const std::string& who, Configuration& configuration, const std::string& checkpoint,
                    Communicator& communicator, std::string& weights, const DataPart& part,
                    const std::string& base = "");
  CheckpointProblem(const CheckpointProblem&) = delete;
  CheckpointProblem& operator=(const CheckpointProblem&) = delete;

  TrainedModel& model() { return model_; }
  GradientPass& pass() { return *pass_; }
  PassProblem& problem() { return *problem_; }
  int64_t samples() const { return samples_; }

 private:
  TrainedModel model_;
  int64_t samples_ = 0;
  std::optional<Permutation> order_;
  std::optional<AgreedGather> gather_;
  std::optional<GradientPass> pass_;
  std::optional<PassProblem> problem_;
};

}  // namespace lockstep
