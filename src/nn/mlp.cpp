// Multilayer perceptron.
#include "lockstep/nn/mlp.h"

#include "lockstep/nn/chain.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/initialization.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/reshape.h"

namespace lockstep {

std::unique_ptr<Module> make_mlp(Section& model, const DataShape& data, const ModuleBuilder& builder) {
  const std::vector<int64_t> hidden =
      model.integers("hidden", std::vector<int64_t>{128}, kSize, "mlp: widths of the hidden layers");
  LinearOptions options;
  options.activation = read_activation(model, "relu");
  const double dropout = read_dropout(model, "dropout", 0.0);
  options.initialization = read_initialization(model);
  require_real_inputs(model, data);

  auto chain = std::make_unique<Chain>();
  int64_t width = data.sample.elements();
  chain->append("inputs (reshape)", std::make_unique<ReshapeLayer>(Shape{width}));
  for (size_t i = 0; i < hidden.size(); ++i) {
    const ModuleBuilder scope = builder.scope("hidden").scope(std::to_string(i));
    chain->append(scope.prefix() + " (linear)",
                  std::make_unique<LinearLayer>(width, hidden[i], options, scope));
    if (dropout > 0.0) chain->append(scope.prefix() + " (dropout)", std::make_unique<DropoutLayer>(dropout));
    width = hidden[i];
  }
  options.activation = ActivationFunction::kNone;
  chain->append("output (linear)",
                std::make_unique<LinearLayer>(width, data.outputs(), options, builder.scope("output")));
  return chain;
}

}  // namespace lockstep
