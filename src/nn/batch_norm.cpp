// Batch norm layer.
#include "lockstep/nn/batch_norm.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/normalization.h"

namespace lockstep {

BatchNormLayer::BatchNormLayer(int64_t channels, const BatchNormOptions& options,
                               const ModuleBuilder& builder)
    : name_(builder.prefix()),
      epsilon_(options.epsilon),
      gamma_(builder.parameter("gamma", {channels}, {Initializer::Kind::kOnes})),
      beta_(builder.parameter("beta", {channels}, {})),
      running_mean_(builder.statistic("running_mean", {channels}, 0.0, options.momentum)),
      running_variance_(builder.statistic("running_variance", {channels}, 1.0, options.momentum)) {}

Tensor BatchNormLayer::forward(const Tensor& x, ForwardContext& context) const {
  const Tensor& gamma = context.parameter(gamma_);
  const Tensor& beta = context.parameter(beta_);
  const auto mean_index = static_cast<size_t>(running_mean_);
  const auto variance_index = static_cast<size_t>(running_variance_);
  if (!context.training) {
    return batch_norm_inference(x, gamma, beta, context.statistics[mean_index],
                                context.statistics[variance_index], epsilon_);
  }
  const int64_t values = x.elements() / x.shape().last();
  if (values < 2) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: batch norm needs at least 2 values a channel in training: micro-batch {}", name_,
                     x.shape().to_string()));
  }
  BatchNormResult result = batch_norm(x, gamma, beta, epsilon_);
  const auto n = static_cast<double>(values);
  context.batch_statistics[mean_index] = result.mean;
  context.batch_statistics[variance_index] = scale(result.variance, n / (n - 1.0));
  return result.y;
}

LayerSpec batch_norm_layer(const BatchNormOptions& options) {
  return {"batch_norm", [options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_option("batch_norm", "momentum", options.momentum, kUnit);
            require_option("batch_norm", "epsilon", options.epsilon, kPositive);
            return {std::make_unique<BatchNormLayer>(input.last(), options, builder), input};
          }};
}

LayerSpec read_batch_norm(Section& keys) {
  BatchNormOptions options;
  options.momentum = keys.real("momentum", options.momentum, kUnit,
                               "batch_norm: share of the newest statistics in the running ones");
  options.epsilon = keys.real("epsilon", options.epsilon, kPositive, "norms: added to the variance");
  return batch_norm_layer(options);
}

}  // namespace lockstep
