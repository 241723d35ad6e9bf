// Layer norm (Ba et al. 2016).
#pragma once

#include "lockstep/nn/layer.h"
#include "lockstep/ops/normalization.h"

namespace lockstep {

struct LayerNormOptions {
  double epsilon = 1e-5;
};

// x (..., features) -> the same: each row normalized, times gamma, plus beta.
class LayerNormLayer final : public Module {
 public:
  LayerNormLayer(int64_t features, const LayerNormOptions& options, const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;
  // Of x + change, for products to read; see add_layer_norm().
  NormedSum of_sum(const Tensor& x, const Tensor& change, const ForwardContext& context) const;

 private:
  double epsilon_;
  int gamma_, beta_;
};

// Any shape, unchanged; normalizes over the last axis.
LayerSpec layer_norm_layer(const LayerNormOptions& options = {});
// Key: epsilon.
LayerSpec read_layer_norm(Section& keys);

}  // namespace lockstep
