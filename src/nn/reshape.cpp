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

LayerSpec reshape_layer(const std::vector<int64_t>& sample) {
  return {"reshape", [sample](const Shape& input, const ModuleBuilder&) -> Layer {
            if (sample.empty() || sample.size() > 3) {
              throw RefusedOption("reshape", "shape",
                                  fmt::format("must have 1 to 3 axes, got {}", sample.size()));
            }
            for (const int64_t extent : sample)
              require_option("reshape", "shape", static_cast<double>(extent), kSize);
            const Shape shape{std::span<const int64_t>(sample)};
            if (shape.elements() != input.elements()) {
              throw RefusedOption("reshape", "shape",
                                  fmt::format("{} has {} elements, the input {} has {}", shape.to_string(),
                                              shape.elements(), input.to_string(), input.elements()));
            }
            return {std::make_unique<ReshapeLayer>(shape), shape};
          }};
}

LayerSpec read_reshape(Section& keys) {
  return reshape_layer(
      keys.integers("shape", std::nullopt, kSize,
                    "reshape: the shape that leaves the layer, e.g. [64, 1]: 64 steps of one feature"));
}

LayerSpec flatten_layer() {
  return {"flatten", [](const Shape& input, const ModuleBuilder&) -> Layer {
            const Shape features{input.elements()};
            return {std::make_unique<ReshapeLayer>(features), features};
          }};
}

}  // namespace lockstep
