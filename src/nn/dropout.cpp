// Dropout layer.
#include "lockstep/nn/dropout.h"

#include <fmt/format.h>

#include "lockstep/ops/dropout.h"

namespace lockstep {

Tensor DropoutLayer::forward(const Tensor& x, ForwardContext& context) const {
  return context.training ? dropout(x, probability_) : x;
}

double read_dropout(Section& keys, const std::string& key, double fallback) {
  return keys.real(key, fallback, kUnit, "probability of zeroing an element in training; less than 1");
}

void require_dropout(const char* owner, const char* key, double probability) {
  require_option(owner, key, probability, kUnit);
  if (probability >= 1.0) throw RefusedOption(owner, key, fmt::format("must be < 1, got {}", probability));
}

LayerSpec dropout_layer(double probability) {
  return {"dropout", [probability](const Shape& input, const ModuleBuilder&) -> Layer {
            require_dropout("dropout", "probability", probability);
            return {std::make_unique<DropoutLayer>(probability), input};
          }};
}

LayerSpec read_dropout_layer(Section& keys) {
  return dropout_layer(read_dropout(keys, "probability", 0.5));
}

}  // namespace lockstep
