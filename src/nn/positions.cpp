// Position layers.
#include "lockstep/nn/positions.h"

#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {

PositionsLayer::PositionsLayer(int64_t positions, int64_t features, const ModuleBuilder& builder)
    : table_(builder.parameter("weight", {positions, features},
                               {Initializer::Kind::kNormal, positions, features, 0.02})) {}

Tensor PositionsLayer::forward(const Tensor& x, ForwardContext& context) const {
  return add(x, context.parameter(table_));
}

Tensor MeanPositionsLayer::forward(const Tensor& x, ForwardContext&) const {
  return mean(x, {1});
}

LayerSpec positions_layer() {
  return {"positions", [](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_sequence("positions", input);
            return {std::make_unique<PositionsLayer>(input[0], input[1], builder), input};
          }};
}

LayerSpec mean_positions_layer() {
  return {"mean_positions", [](const Shape& input, const ModuleBuilder&) -> Layer {
            require_sequence("mean_positions", input);
            return {std::make_unique<MeanPositionsLayer>(), {input[1]}};
          }};
}

}  // namespace lockstep
