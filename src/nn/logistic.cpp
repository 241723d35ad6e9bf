// Logistic regression.
#include "lockstep/nn/logistic.h"

#include <fmt/format.h>

#include "lockstep/nn/chain.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/reshape.h"

namespace lockstep {

std::unique_ptr<Module> make_logistic(const DataShape& data, const ModuleBuilder& builder) {
  require_real_inputs("logistic", data);
  if (data.classes < 2) {
    throw RefusedOption(
        "logistic", "type",
        fmt::format("logistic needs data with at least 2 classes, got {}; linear regression is \"mlp\" "
                    "with hidden = []",
                    data.classes));
  }
  LinearOptions options;
  options.initialization = Initializer::Kind::kZeros;
  auto chain = std::make_unique<Chain>();
  const int64_t features = data.sample.elements();
  chain->append("inputs (reshape)", std::make_unique<ReshapeLayer>(Shape{features}));
  chain->append("output (linear)",
                std::make_unique<LinearLayer>(features, data.classes == 2 ? 1 : data.classes, options,
                                              builder.scope("output")));
  return chain;
}

}  // namespace lockstep
