// Recurrent layer.
#include "lockstep/nn/recurrent.h"

#include <fmt/format.h>

#include <cmath>

#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/recurrent.h"

namespace lockstep {

RecurrentLayer::RecurrentLayer(int64_t features, int64_t units, const RecurrentOptions& options,
                               const ModuleBuilder& builder)
    : options_(options) {
  const int64_t gates = gates_of(options.cell) * units;
  const auto declare = [&](bool reverse, const ModuleBuilder& scope) {
    Pass pass;
    pass.reverse = reverse;
    pass.weight =
        scope.parameter("weight", {features, gates}, {Initializer::Kind::kXavierUniform, features, units});
    pass.recurrent_weight =
        scope.parameter("recurrent_weight", {units, gates},
                        {Initializer::Kind::kNormal, units, units,
                         options.recurrent_scale / std::sqrt(static_cast<double>(units))});
    pass.bias = scope.parameter("bias", {gates}, {});
    if (options.cell == RecurrentCell::kGru)
      pass.recurrent_bias = scope.parameter("recurrent_bias", {units}, {});
    passes_.push_back(pass);
  };
  if (options.direction == Direction::kBoth) {
    declare(false, builder.scope("forward"));
    declare(true, builder.scope("backward"));
  } else {
    declare(options.direction == Direction::kBackward, builder);
  }
}

Tensor RecurrentLayer::forward(const Tensor& x, ForwardContext& context) const {
  const int64_t batch = x.extent(0), steps = x.extent(1);
  // Time first, so that the rows of a step lie together for its product.
  const Tensor sequence = permute(reshape(x, {batch, steps, -1}), {1, 0, 2});
  std::vector<Tensor> results;
  for (const Pass& pass : passes_) {
    const Tensor inputs = linear(sequence, context.parameter(pass.weight), context.parameter(pass.bias));
    const Tensor states =
        recurrent(options_.cell, inputs, context.parameter(pass.recurrent_weight),
                  pass.recurrent_bias < 0 ? Tensor() : context.parameter(pass.recurrent_bias), pass.reverse);
    const int64_t last = pass.reverse ? 0 : steps - 1;
    results.push_back(options_.sequence ? states : slice(states, 0, last, last + 1));
  }
  const Tensor states = results.size() == 1 ? results[0] : concatenate(results, 2);
  return options_.sequence ? permute(states, {1, 0, 2}) : reshape(states, {batch, states.shape().last()});
}

LayerSpec recurrent_layer(int64_t units, const RecurrentOptions& options) {
  return {"recurrent", [units, options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_option("recurrent", "units", static_cast<double>(units), kSize);
            require_option("recurrent", "recurrent_scale", options.recurrent_scale, kNonNegative);
            if (input.rank() < 2) {
              throw RefusedOption("recurrent", "type",
                                  fmt::format("recurrent takes (T,features), got {}: put an embedding or a "
                                              "reshape layer before it",
                                              input.to_string()));
            }
            const int64_t width = options.direction == Direction::kBoth ? 2 * units : units;
            return {
                std::make_unique<RecurrentLayer>(input.elements(1, input.rank()), units, options, builder),
                options.sequence ? Shape{input[0], width} : Shape{width}};
          }};
}

LayerSpec read_recurrent(Section& keys) {
  RecurrentOptions options;
  const std::string cell =
      keys.text("cell", "lstm", {"rnn_tanh", "rnn_relu", "lstm", "gru"}, "recurrent: kind of cell");
  options.cell = cell == "lstm"       ? RecurrentCell::kLstm
                 : cell == "gru"      ? RecurrentCell::kGru
                 : cell == "rnn_relu" ? RecurrentCell::kRelu
                                      : RecurrentCell::kTanh;
  const int64_t units =
      keys.integer("units", std::nullopt, kSize, "recurrent: numbers in the state (of each direction)");
  options.sequence =
      keys.text("return", "last", {"last", "sequence"},
                "recurrent: the state after the last step, or those of all steps") == "sequence";
  const std::string direction =
      keys.text("direction", "forward", {"forward", "backward", "both"},
                "recurrent: order of the steps; both gives the states of each, side by side");
  options.direction = direction == "forward"    ? Direction::kForward
                      : direction == "backward" ? Direction::kBackward
                                                : Direction::kBoth;
  options.recurrent_scale = keys.real(
      "recurrent_scale", options.recurrent_scale, kNonNegative,
      "recurrent: expected spectral radius of each gate's initial recurrent matrix; above 1 gradients "
      "may grow exponentially with the number of steps, below 1 they fade");
  return recurrent_layer(units, options);
}

}  // namespace lockstep
