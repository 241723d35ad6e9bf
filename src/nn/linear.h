// Linear layer: activation(x W + b).
#pragma once

#include "lockstep/nn/activation.h"
#include "lockstep/nn/layer.h"

namespace lockstep {

struct LinearOptions {
  ActivationFunction activation = ActivationFunction::kNone;
  Initializer::Kind initialization = Initializer::Kind::kHeNormal;
  bool bias = true;
};

// x (..., inputs) -> (..., outputs); weight (inputs, outputs), bias (outputs), initially zero.
class LinearLayer final : public Module {
 public:
  LinearLayer(int64_t inputs, int64_t outputs, const LinearOptions& options, const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;
  // next.forward(forward(x)), with the same bits but where the backend fuses the activation's derivative into
  // a product. For layers between which nothing is ever recomputed.
  Tensor forward_into(const LinearLayer& next, const Tensor& x, ForwardContext& context) const;

 private:
  Tensor bias(ForwardContext& context) const;  // undefined: none

  ActivationFunction activation_;
  int weight_;
  int bias_ = -1;
};

// (features) or (T,features) -> the same with `units` features.
LayerSpec linear_layer(int64_t units, const LinearOptions& options = {});
// Keys: units, activation, bias, initialization.
LayerSpec read_linear(Section& keys);

}  // namespace lockstep
