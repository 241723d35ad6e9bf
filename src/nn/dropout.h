// Dropout layer (Srivastava et al. 2014).
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

// Training: each element is zeroed with the given probability, the others are scaled by 1/(1 - probability);
// draws come from the current RandomScope. Evaluation: the identity.
class DropoutLayer final : public Module {
 public:
  explicit DropoutLayer(double probability) : probability_(probability) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  double probability_;
};

// A probability in [0, 1) under `key`.
double read_dropout(Section& keys, const std::string& key, double fallback);

// Key: probability. Any shape, unchanged.
Layer make_dropout(Section& keys, const Shape& input, const ModuleBuilder& builder);

}  // namespace lockstep
