// Activation functions by name, and the layer that applies one.
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

enum class ActivationFunction { kNone, kRelu, kGelu, kGeluTanh, kTanh, kSigmoid, kSoftplus };

Tensor activate(ActivationFunction function, const Tensor& x);

// Key `activation` of models and of layers that end in one.
ActivationFunction read_activation(Section& keys, const std::string& fallback);

class ActivationLayer final : public Module {
 public:
  explicit ActivationLayer(ActivationFunction function) : function_(function) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  ActivationFunction function_;
};

// Key: function. Any shape, unchanged.
Layer make_activation(Section& keys, const Shape& input, const ModuleBuilder& builder);

}  // namespace lockstep
