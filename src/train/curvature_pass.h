// Sums over the layers of a global batch that an optimizer asks for beside the gradient: a sweep of its own
// over the micro-batches, with targets that the model predicts, shared out and summed over the reduction tree
// as gradients are: the same bits on any number of workers and threads.
#pragma once

#include <vector>

#include "lockstep/optim/layer_curvature.h"
#include "lockstep/train/gradient_pass.h"

namespace lockstep {

class CurvaturePass {
 public:
  // Everything must outlive the object.
  CurvaturePass(const LayerCurvature& curvature, Replica& replica, GradientPass& pass,
                const RunSettings& settings);

  struct Result {
    Tensor sums;                // (extent): of a sharded optimizer this worker's layers alone
    std::vector<int64_t> rows;  // of each layer, of all micro-batches
    double weight = 0.0;        // of all targets
  };
  // Of the batch that the pass was given last, with its draws. bases: see CurvatureSums; whole, undefined
  // unless scales are due. Collective.
  Result sweep(const LayerCurvature::Due& due, const Tensor& bases);

  // Who owns what of an array of the sums.
  const ParameterShards& shards() const { return *shards_; }
  // The same of an array of one number a layer.
  const ParameterShards& numbers() const { return *numbers_; }
  // Held for sums and their exchange.
  size_t bytes() const { return exchange_ == nullptr ? 0 : exchange_->bytes(); }

 private:
  const LayerCurvature& curvature_;
  Replica& replica_;
  GradientPass& pass_;
  std::unique_ptr<ParameterShards> shards_, numbers_;
  std::unique_ptr<GradientExchange> exchange_;  // null: no layer
};

}  // namespace lockstep
