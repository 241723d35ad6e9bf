// Dropout layer.
#include "lockstep/nn/dropout.h"

#include <fmt/format.h>

#include "lockstep/ops/dropout.h"

namespace lockstep {

Tensor DropoutLayer::forward(const Tensor& x, ForwardContext& context) const {
  return context.training ? dropout(x, probability_) : x;
}

double read_dropout(Section& keys, const std::string& key, double fallback) {
  const double probability =
      keys.real(key, fallback, kUnit, "probability of zeroing an element in training; less than 1");
  if (probability >= 1.0) keys.reject(key, fmt::format("must be < 1, got {}", probability));
  return probability;
}

Layer make_dropout(Section& keys, const Shape& input, const ModuleBuilder&) {
  return {std::make_unique<DropoutLayer>(read_dropout(keys, "probability", 0.5)), input};
}

}  // namespace lockstep
