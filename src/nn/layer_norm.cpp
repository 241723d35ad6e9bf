// Layer norm layer.
#include "lockstep/nn/layer_norm.h"

namespace lockstep {

LayerNormLayer::LayerNormLayer(int64_t features, const LayerNormOptions& options,
                               const ModuleBuilder& builder)
    : epsilon_(options.epsilon),
      gamma_(builder.parameter("gamma", {features}, {Initializer::Kind::kOnes})),
      beta_(builder.parameter("beta", {features}, {})) {}

Tensor LayerNormLayer::forward(const Tensor& x, ForwardContext& context) const {
  return layer_norm(x, context.parameter(gamma_), context.parameter(beta_), epsilon_);
}

NormedSum LayerNormLayer::of_sum(const Tensor& x, const Tensor& change, const ForwardContext& context) const {
  return add_layer_norm(x, change, context.parameter(gamma_), context.parameter(beta_), epsilon_);
}

LayerSpec layer_norm_layer(const LayerNormOptions& options) {
  return {"layer_norm", [options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_option("layer_norm", "epsilon", options.epsilon, kPositive);
            return {std::make_unique<LayerNormLayer>(input.last(), options, builder), input};
          }};
}

LayerSpec read_layer_norm(Section& keys) {
  LayerNormOptions options;
  options.epsilon = keys.real("epsilon", options.epsilon, kPositive, "norms: added to the variance");
  return layer_norm_layer(options);
}

}  // namespace lockstep
