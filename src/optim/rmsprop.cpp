// RMSProp, plain and centered, one flat kernel each.
#include "lockstep/optim/rmsprop.h"

#include "lockstep/optim/flat_optimizer.h"
#include "lockstep/optim/optimizer_keys.h"

namespace lockstep {
namespace {

class RmsProp final : public FlatOptimizer {
 public:
  RmsProp(UpdateFormula formula, std::vector<std::string> arrays, double rho, double epsilon,
          double weight_decay)
      : FlatOptimizer("rmsprop", formula, std::move(arrays), weight_decay), rho_(rho), epsilon_(epsilon) {}

 private:
  void set_scalars(int64_t, double* scalars) const override {
    scalars[2] = rho_;
    scalars[3] = epsilon_;
  }

  double rho_, epsilon_;
};

}  // namespace

std::unique_ptr<Optimizer> make_rmsprop(const RmsPropOptions& options) {
  require_decay_rate("rmsprop", "rho", options.rho);
  require_epsilon("rmsprop", "epsilon", options.epsilon);
  require_not_negative("rmsprop", "weight_decay", options.weight_decay);
  std::vector<std::string> arrays{"square_average"};
  if (options.centered) arrays.emplace_back("average");
  return std::make_unique<RmsProp>(
      options.centered ? UpdateFormula::kRmsPropCentered : UpdateFormula::kRmsProp, std::move(arrays),
      options.rho, options.epsilon, options.weight_decay);
}

std::unique_ptr<Optimizer> make_rmsprop(Section& section) {
  RmsPropOptions options;
  options.rho =
      read_decay_rate(section, "rho", options.rho, "rmsprop: share of the running averages kept each step");
  options.epsilon = read_epsilon(section, options.epsilon, "rmsprop");
  options.weight_decay = read_coupled_weight_decay(section);
  options.centered = section.boolean("centered", options.centered,
                                     "rmsprop: divide by the deviation of the gradients, not by their size");
  return make_rmsprop(options);
}

}  // namespace lockstep
