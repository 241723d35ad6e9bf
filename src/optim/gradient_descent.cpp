// Plain gradient steps: theta_{k+1} = theta_k - eta_k g_k.
#include "lockstep/optim/gradient_descent.h"

#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/minimizing.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {
namespace {

class GradientDescent final : public FlatOptimizer {
 public:
  explicit GradientDescent(double weight_decay)
      : FlatOptimizer("gradient_descent", UpdateFormula::kSgd, {}, weight_decay) {}
  bool full_batch() const override { return true; }
};

}  // namespace

std::unique_ptr<Optimizer> make_gradient_descent(const GradientDescentOptions& options) {
  require_not_negative("gradient_descent", "weight_decay", options.weight_decay);
  return std::make_unique<GradientDescent>(options.weight_decay);
}

std::unique_ptr<Optimizer> make_sgd(const GradientDescentOptions& options) {
  require_not_negative("sgd", "weight_decay", options.weight_decay);
  return std::make_unique<FlatOptimizer>("sgd", UpdateFormula::kSgd, std::vector<std::string>{},
                                         options.weight_decay);
}

std::unique_ptr<Optimizer> make_gradient_descent(Section& section) {
  const auto along_lines = [](const LineSearchOptions& search) { return make_line_descent({search}); };
  if (auto searching = read_line_descent(section, "gradient_descent", along_lines)) return searching;
  return make_gradient_descent({read_coupled_weight_decay(section)});
}

std::unique_ptr<Optimizer> make_sgd(Section& section) {
  return make_sgd({read_coupled_weight_decay(section)});
}

}  // namespace lockstep
