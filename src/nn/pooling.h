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

// (H,W,C) -> (OH,OW,C).
LayerSpec max_pool_layer(const PoolOptions& options = {});
LayerSpec average_pool_layer(const PoolOptions& options = {});
// Keys: kernel, stride, padding.
LayerSpec read_max_pool(Section& keys);
LayerSpec read_average_pool(Section& keys);
// (H,W,C) -> (C).
LayerSpec global_average_pool_layer();

}  // namespace lockstep
