// Multilayer perceptron.
#include "lockstep/nn/mlp.h"

#include "lockstep/nn/chain.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/initialization.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/reshape.h"

namespace lockstep {

MlpOptions read_mlp(Section& model) {
  MlpOptions options;
  options.hidden = model.integers("hidden", options.hidden, kSize, "mlp: widths of the hidden layers");
  options.activation = read_activation(model, options.activation);
  options.dropout = read_dropout(model, "dropout", options.dropout);
  options.initialization = read_initialization(model, options.initialization);
  return options;
}

std::unique_ptr<Module> make_mlp(const MlpOptions& options, const DataShape& data,
                                 const ModuleBuilder& builder) {
  for (const int64_t width : options.hidden)
    require_option("mlp", "hidden", static_cast<double>(width), kSize);
  require_dropout("mlp", "dropout", options.dropout);
  require_real_inputs("mlp", data);

  auto chain = std::make_unique<Chain>();
  int64_t width = data.sample.elements();
  chain->append("inputs (reshape)", std::make_unique<ReshapeLayer>(Shape{width}));
  LinearOptions linear{options.activation, options.initialization};
  for (size_t i = 0; i < options.hidden.size(); ++i) {
    const ModuleBuilder scope = builder.scope("hidden").scope(std::to_string(i));
    chain->append(scope.prefix() + " (linear)",
                  std::make_unique<LinearLayer>(width, options.hidden[i], linear, scope));
    if (options.dropout > 0.0)
      chain->append(scope.prefix() + " (dropout)", std::make_unique<DropoutLayer>(options.dropout));
    width = options.hidden[i];
  }
  linear.activation = ActivationFunction::kNone;
  chain->append("output (linear)",
                std::make_unique<LinearLayer>(width, data.outputs(), linear, builder.scope("output")));
  return chain;
}

}  // namespace lockstep
