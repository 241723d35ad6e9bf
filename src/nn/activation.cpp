// Activation functions.
#include "lockstep/nn/activation.h"

#include <algorithm>

#include "lockstep/core/error.h"
#include "lockstep/ops/elementwise.h"

namespace lockstep {

namespace {

struct NamedFunction {
  const char* name;
  ActivationFunction function;
};

constexpr NamedFunction kFunctions[] = {
    {"none", ActivationFunction::kNone},         {"relu", ActivationFunction::kRelu},
    {"gelu", ActivationFunction::kGelu},         {"gelu_tanh", ActivationFunction::kGeluTanh},
    {"tanh", ActivationFunction::kTanh},         {"sigmoid", ActivationFunction::kSigmoid},
    {"softplus", ActivationFunction::kSoftplus},
};

ActivationFunction read_function(Section& keys, const std::string& key, std::optional<std::string> fallback) {
  std::vector<std::string> names;
  for (const NamedFunction& known : kFunctions) names.emplace_back(known.name);
  const std::string name = keys.text(key, std::move(fallback), names, "function applied to every element");
  for (const NamedFunction& known : kFunctions) {
    if (name == known.name) return known.function;
  }
  keys.reject(key, "unknown function " + name);
}

}  // namespace

Tensor activate(ActivationFunction function, const Tensor& x) {
  switch (function) {
    case ActivationFunction::kNone:
      return x;
    case ActivationFunction::kRelu:
      return relu(x);
    case ActivationFunction::kGelu:
      return gelu(x);
    case ActivationFunction::kGeluTanh:
      return gelu_tanh(x);
    case ActivationFunction::kTanh:
      return tanh(x);
    case ActivationFunction::kSigmoid:
      return sigmoid(x);
    case ActivationFunction::kSoftplus:
      return softplus(x);
  }
  fail(ErrorKind::kInternal, "activate: unknown function");
}

ActivationFunction read_activation(Section& keys, ActivationFunction fallback) {
  const auto* known = std::ranges::find(kFunctions, fallback, &NamedFunction::function);
  return read_function(keys, "activation", known->name);
}

Tensor ActivationLayer::forward(const Tensor& x, ForwardContext&) const {
  return activate(function_, x);
}

LayerSpec activation_layer(ActivationFunction function) {
  return {"activation", [function](const Shape& input, const ModuleBuilder&) -> Layer {
            return {std::make_unique<ActivationLayer>(function), input};
          }};
}

LayerSpec read_activation_layer(Section& keys) {
  return activation_layer(read_function(keys, "function", std::nullopt));
}

}  // namespace lockstep
