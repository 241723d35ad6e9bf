// Flatten layer: a sample of any shape as one row of features.
#pragma once

#include "nn/layer.h"

namespace lockstep {

// x (B, ...) -> (B, features).
class FlattenLayer final : public Module {
 public:
  Tensor forward(const Tensor& x, ForwardContext& context) const override;
};

// No keys.
Layer make_flatten(Section& keys, const Shape& input, const ModuleBuilder& builder);

}  // namespace lockstep
