// Linear layer.
#include "lockstep/nn/linear.h"

#include <fmt/format.h>

#include <optional>

#include "lockstep/nn/initialization.h"
#include "lockstep/ops/matmul.h"

namespace lockstep {

namespace {

// The functions that a product applies to what it gives.
std::optional<Activation> fused_activation(ActivationFunction function) {
  switch (function) {
    case ActivationFunction::kNone:
      return Activation::kNone;
    case ActivationFunction::kRelu:
      return Activation::kRelu;
    case ActivationFunction::kGelu:
      return Activation::kGelu;
    case ActivationFunction::kGeluTanh:
      return Activation::kGeluTanh;
    case ActivationFunction::kTanh:
    case ActivationFunction::kSigmoid:
    case ActivationFunction::kSoftplus:
      break;
  }
  return std::nullopt;
}

}  // namespace

LinearLayer::LinearLayer(int64_t inputs, int64_t outputs, const LinearOptions& options,
                         const ModuleBuilder& builder)
    : activation_(options.activation),
      weight_(builder.parameter("weight", {inputs, outputs}, {options.initialization, inputs, outputs})) {
  if (options.bias) bias_ = builder.parameter("bias", {outputs}, {});
}

Tensor LinearLayer::forward(const Tensor& x, ForwardContext& context) const {
  const std::optional<Activation> fused = fused_activation(activation_);
  const Tensor y = linear(x, context.parameter(weight_), bias(context), fused.value_or(Activation::kNone));
  return fused ? y : activate(activation_, y);
}

Tensor LinearLayer::forward_into(const LinearLayer& next, const Tensor& x, ForwardContext& context) const {
  const std::optional<Activation> fused = fused_activation(activation_);
  if (!fused || *fused == Activation::kNone || next.activation_ != ActivationFunction::kNone) {
    return next.forward(forward(x, context), context);
  }
  return feed_forward(x, context.parameter(weight_), bias(context), *fused, context.parameter(next.weight_),
                      next.bias(context));
}

Tensor LinearLayer::bias(ForwardContext& context) const {
  return bias_ < 0 ? Tensor() : context.parameter(bias_);
}

LayerSpec linear_layer(int64_t units, const LinearOptions& options) {
  return {"linear", [units, options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_option("linear", "units", static_cast<double>(units), kSize);
            if (input.rank() != 1 && input.rank() != 2) {
              throw RefusedOption("linear", "type",
                                  fmt::format("linear takes (features) or (T,features), got {}: put a "
                                              "flatten or global_average_pool layer before it",
                                              input.to_string()));
            }
            Shape output = input;
            output[input.rank() - 1] = units;
            return {std::make_unique<LinearLayer>(input.last(), units, options, builder), output};
          }};
}

LayerSpec read_linear(Section& keys) {
  const int64_t units = keys.integer("units", std::nullopt, kSize, "linear: features that leave the layer");
  LinearOptions options;
  options.activation = read_activation(keys, options.activation);
  options.bias = keys.boolean("bias", options.bias, "adds a learned bias");
  options.initialization = read_initialization(keys, options.initialization);
  return linear_layer(units, options);
}

}  // namespace lockstep
