// Linear layer.
#include "nn/linear.h"

#include <fmt/format.h>

#include "nn/initialization.h"
#include "ops/matmul.h"

namespace lockstep {

LinearLayer::LinearLayer(int64_t inputs, int64_t outputs, const LinearOptions& options,
                         const ModuleBuilder& builder)
    : activation_(options.activation),
      weight_(builder.parameter("weight", {inputs, outputs}, {options.initialization, inputs, outputs})) {
  if (options.bias) bias_ = builder.parameter("bias", {outputs}, {});
}

Tensor LinearLayer::forward(const Tensor& x, ForwardContext& context) const {
  const Tensor& weight = context.parameter(weight_);
  const Tensor bias = bias_ < 0 ? Tensor() : context.parameter(bias_);
  switch (activation_) {  // what the product's epilogue can do is fused into it
    case ActivationFunction::kRelu:
      return linear(x, weight, bias, Activation::kRelu);
    case ActivationFunction::kGelu:
      return linear(x, weight, bias, Activation::kGelu);
    default:
      return activate(activation_, linear(x, weight, bias));
  }
}

Layer make_linear(Section& keys, const Shape& input, const ModuleBuilder& builder) {
  const int64_t units = keys.integer("units", std::nullopt, kSize, "linear: features that leave the layer");
  LinearOptions options;
  options.activation = read_activation(keys, "none");
  options.bias = keys.boolean("bias", true, "adds a learned bias");
  options.initialization = read_initialization(keys);
  if (input.rank() != 1 && input.rank() != 2) {
    keys.reject("type", fmt::format("linear takes (features) or (T,features), got {}: put a flatten or "
                                    "global_average_pool layer before it",
                                    input.to_string()));
  }
  Shape output = input;
  output[input.rank() - 1] = units;
  return {std::make_unique<LinearLayer>(input.last(), units, options, builder), output};
}

}  // namespace lockstep
