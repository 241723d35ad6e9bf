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

// To 1 to 3 axes, with as many elements as the input has.
LayerSpec reshape_layer(const std::vector<int64_t>& sample);
// Key: shape.
LayerSpec read_reshape(Section& keys);
// To one row of features.
LayerSpec flatten_layer();

}  // namespace lockstep
