// Reshape layers: the elements of a sample under another shape.
#pragma once

#include "lockstep/nn/layer.h"

namespace lockstep {

// x (B, ...) -> (B, sample...), row-major.
class ReshapeLayer final : public Module {
 public:
  explicit ReshapeLayer(const Shape& sample) : sample_(sample) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  Shape sample_;
};

// Key: shape, as many elements as the input has.
Layer make_reshape(Section& keys, const Shape& input, const ModuleBuilder& builder);
// No keys: one row of features.
Layer make_flatten(Section& keys, const Shape& input, const ModuleBuilder& builder);

}  // namespace lockstep
