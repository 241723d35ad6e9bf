// Pooling layers over images: maximum, average, and average of the whole image.
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

struct PoolOptions {
  int64_t kernel = 2, stride = 2, padding = 0;  // of both axes
};

// x (N,H,W,C) -> (N,OH,OW,C).
class MaxPoolLayer final : public Module {
 public:
  explicit MaxPoolLayer(const PoolOptions& options) : options_(options) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  PoolOptions options_;
};

class AveragePoolLayer final : public Module {
 public:
  explicit AveragePoolLayer(const PoolOptions& options) : options_(options) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  PoolOptions options_;
};

// x (N,H,W,C) -> (N,C): the mean over each channel (Lin et al. 2014, "Network in network").
class GlobalAveragePoolLayer final : public Module {
 public:
  Tensor forward(const Tensor& x, ForwardContext& context) const override;
};

// Keys: kernel, stride, padding. (H,W,C) -> (OH,OW,C).
Layer make_max_pool(Section& keys, const Shape& input, const ModuleBuilder& builder);
Layer make_average_pool(Section& keys, const Shape& input, const ModuleBuilder& builder);
// No keys. (H,W,C) -> (C).
Layer make_global_average_pool(Section& keys, const Shape& input, const ModuleBuilder& builder);

}  // namespace lockstep
