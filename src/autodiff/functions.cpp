// Derivatives as functions on functions, by the sweeps of derivatives.cpp.
#include <optional>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

std::vector<Tensor> variables(std::span<const Tensor> inputs) {
  std::vector<Tensor> result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool differentiable = inputs[i].defined() && is_floating(inputs[i].dtype());
    result.push_back(differentiable ? variable(inputs[i], static_cast<int>(i)) : inputs[i]);
  }
  return result;
}

// J' cotangent of what `value` was made of; undefined for those that take no part in differentiation.
std::vector<Tensor> pull_back(const Tensor& value, const Tensor& cotangent,
                              std::span<const Tensor> arguments) {
  std::vector<Tensor> targets;
  for (const Tensor& argument : arguments) {
    if (argument.node() != nullptr) targets.push_back(argument);
  }
  const std::vector<Tensor> derivatives = gradients(value, cotangent, targets, false);
  std::vector<Tensor> result(arguments.size());
  for (size_t i = 0, next = 0; i < arguments.size(); ++i) {
    if (arguments[i].node() != nullptr) result[i] = derivatives[next++];
  }
  return result;
}

}  // namespace

std::pair<Tensor, std::vector<Tensor>> value_and_grad(const Function& f, std::span<const Tensor> inputs,
                                                      bool create_graph) {
  // Inputs that already carry history keep it, so that calls nest.
  std::vector<Tensor> arguments(inputs.begin(), inputs.end());
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].node() == nullptr) arguments[i] = variable(arguments[i], static_cast<int>(i));
  }
  Tensor value;
  {
    const RecordingScope on(true);
    std::optional<EveryOrderScope> every;
    if (create_graph) every.emplace();
    value = f(arguments);
  }
  if (value.elements() != 1) {
    fail(ErrorKind::kUsage,
         "grad: the function's value must be one number, its shape is " + value.shape().to_string());
  }
  std::vector<Tensor> derivatives = gradients(value, value.full_like(1.0), arguments, create_graph);
  return {create_graph ? value : value.detach(), std::move(derivatives)};
}

std::vector<Tensor> grad(const Function& f, std::span<const Tensor> inputs, bool create_graph) {
  return value_and_grad(f, inputs, create_graph).second;
}

std::pair<Tensor, std::vector<Tensor>> vjp(const Function& f, std::span<const Tensor> inputs,
                                           const Tensor& cotangent) {
  const RecordingScope on(true);
  const std::vector<Tensor> arguments = variables(inputs);
  const Tensor value = f(arguments);
  return {value.detach(), pull_back(value, cotangent, arguments)};
}

std::pair<Tensor, Tensor> jvp(const Function& f, std::span<const Tensor> inputs,
                              std::span<const Tensor> tangents) {
  const FirstDerivative derivative(f, inputs);
  return {derivative.value(), derivative.times(tangents)};
}

std::vector<Tensor> hvp(const Function& f, std::span<const Tensor> inputs, std::span<const Tensor> vectors) {
  return SecondDerivative(f, inputs).times(vectors);
}

FirstDerivative::FirstDerivative(const Function& f, std::span<const Tensor> inputs)
    : inputs_(variables(inputs)) {
  const RecordingScope on(true);
  const EveryOrderScope every;
  value_ = f(inputs_);
}

Tensor FirstDerivative::times(std::span<const Tensor> vectors, bool keep) const {
  return push_forward({&value_, 1}, inputs_, vectors, keep)[0];
}

std::vector<Tensor> FirstDerivative::transposed_times(const Tensor& cotangent) const {
  return pull_back(value_, cotangent, inputs_);
}

SecondDerivative::SecondDerivative(const Function& f, std::span<const Tensor> inputs)
    : inputs_(variables(inputs)) {
  const RecordingScope on(true);
  const EveryOrderScope every;
  gradient_ = grad(f, inputs_, true);
}

std::vector<Tensor> SecondDerivative::times(std::span<const Tensor> vectors) const {
  return push_forward(gradient_, inputs_, vectors);
}

}  // namespace lockstep
