// Batch norm with running statistics (Ioffe and Szegedy 2015).
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

struct BatchNormOptions {
  double momentum = 0.1;  // share of the newest statistics in the running ones
  double epsilon = 1e-5;
};

// x (..., channels) -> the same: (x - mean)/sqrt(variance + epsilon) * gamma + beta.
//
// Training normalizes by the statistics of the micro-batch and leaves its mean and its unbiased variance in
// context.batch_statistics; the trainer averages them over the micro-batches of a step into the running
// statistics, so they do not depend on the number of workers. Evaluation normalizes by the running
// statistics.
class BatchNormLayer final : public Module {
 public:
  BatchNormLayer(int64_t channels, const BatchNormOptions& options, const ModuleBuilder& builder);
  // Error (kUsage) in training when a channel has only one value: its variance says nothing.
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  std::string name_;
  double epsilon_;
  int gamma_, beta_, running_mean_, running_variance_;
};

// Any shape, unchanged; the last axis is the channels.
LayerSpec batch_norm_layer(const BatchNormOptions& options = {});
// Keys: momentum, epsilon.
LayerSpec read_batch_norm(Section& keys);

}  // namespace lockstep
