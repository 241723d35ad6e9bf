// Flatten layer.
#include "nn/flatten.h"

#include "ops/movement.h"

namespace lockstep {

Tensor FlattenLayer::forward(const Tensor& x, ForwardContext&) const {
  return reshape(x, {x.extent(0), x.shape().elements(1, x.rank())});
}

Layer make_flatten(Section&, const Shape& input, const ModuleBuilder&) {
  return {std::make_unique<FlattenLayer>(), {input.elements()}};
}

}  // namespace lockstep
