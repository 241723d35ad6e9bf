// Activation functions by name, and the layer that applies one.
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

enum class ActivationFunction { kNone, kRelu, kGelu, kGeluTanh, kTanh, kSigmoid, kSoftplus };

Tensor activate(ActivationFunction function, const Tensor& x);

// Key `activation` of models and of layers that end in one.
ActivationFunction read_activation(Section& keys, ActivationFunction fallback);

class ActivationLayer final : public Module {
 public:
  explicit ActivationLayer(ActivationFunction function) : function_(function) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  ActivationFunction function_;
};

// Any shape, unchanged.
LayerSpec activation_layer(ActivationFunction function);
// Key: function.
LayerSpec read_activation_layer(Section& keys);

}  // namespace lockstep
