// Reshape layers.
#include "lockstep/nn/reshape.h"

#include <fmt/format.h>

#include "lockstep/ops/movement.h"

namespace lockstep {

Tensor ReshapeLayer::forward(const Tensor& x, ForwardContext&) const {
  Shape shape{x.extent(0)};
  for (const int64_t extent : sample_.extents()) shape.push_back(extent);
  return reshape(x, shape);
}

Layer make_reshape(Section& keys, const Shape& input, const ModuleBuilder&) {
  const std::vector<int64_t> extents =
      keys.integers("shape", std::nullopt, kSize,
                    "reshape: the shape that leaves the layer, e.g. [64, 1]: 64 steps of one feature");
  if (extents.size() > 3 || (extents.empty() && keys.has("shape"))) {
    keys.reject("shape", fmt::format("must have 1 to 3 axes, got {}", extents.size()));
  }
  const Shape shape{std::span<const int64_t>(extents)};
  if (shape.elements() != input.elements()) {
    keys.reject("shape", fmt::format("{} has {} elements, the input {} has {}", shape.to_string(),
                                     shape.elements(), input.to_string(), input.elements()));
  }
  return {std::make_unique<ReshapeLayer>(shape), shape};
}

Layer make_flatten(Section&, const Shape& input, const ModuleBuilder&) {
  const Shape features{input.elements()};
  return {std::make_unique<ReshapeLayer>(features), features};
}

}  // namespace lockstep
