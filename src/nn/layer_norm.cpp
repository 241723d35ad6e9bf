// Layer norm layer.
#include "lockstep/nn/layer_norm.h"

#include "lockstep/ops/normalization.h"

namespace lockstep {

LayerNormLayer::LayerNormLayer(int64_t features, double epsilon, const ModuleBuilder& builder)
    : epsilon_(epsilon),
      gamma_(builder.parameter("gamma", {features}, {Initializer::Kind::kOnes})),
      beta_(builder.parameter("beta", {features}, {})) {}

Tensor LayerNormLayer::forward(const Tensor& x, ForwardContext& context) const {
  return layer_norm(x, context.parameter(gamma_), context.parameter(beta_), epsilon_);
}

Layer make_layer_norm(Section& keys, const Shape& input, const ModuleBuilder& builder) {
  const double epsilon = keys.real("epsilon", 1e-5, kPositive, "norms: added to the variance");
  return {std::make_unique<LayerNormLayer>(input.last(), epsilon, builder), input};
}

}  // namespace lockstep
