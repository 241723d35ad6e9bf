// Layer norm (Ba et al. 2016).
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

// x (..., features) -> the same: each row normalized, times gamma, plus beta.
class LayerNormLayer final : public Module {
 public:
  LayerNormLayer(int64_t features, double epsilon, const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  double epsilon_;
  int gamma_, beta_;
};

// Key: epsilon. Any shape, unchanged; normalizes over the last axis.
Layer make_layer_norm(Section& keys, const Shape& input, const ModuleBuilder& builder);

}  // namespace lockstep
