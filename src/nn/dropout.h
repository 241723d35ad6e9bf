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

// A probability under `key`.
double read_dropout(Section& keys, const std::string& key, double fallback);

// Refuses what is no probability in [0, 1).
void require_dropout(const char* owner, const char* key, double probability);

// Any shape, unchanged.
LayerSpec dropout_layer(double probability = 0.5);
// Key: probability.
LayerSpec read_dropout_layer(Section& keys);

}  // namespace lockstep
