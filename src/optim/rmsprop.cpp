// RMSProp, plain and centered, one flat kernel each.
#include "optim/rmsprop.h"

#include "optim/flat_optimizer.h"
#include "optim/optimizer_keys.h"

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

std::unique_ptr<Optimizer> make_rmsprop(Section& section) {
  const double rho =
      read_decay_rate(section, "rho", 0.99, "rmsprop: share of the running averages kept each step");
  const double epsilon = read_epsilon(section, 1e-8, "rmsprop");
  const double weight_decay = read_coupled_weight_decay(section);
  if (section.boolean("centered", false,
                      "rmsprop: divide by the deviation of the gradients, not by their size")) {
    return std::make_unique<RmsProp>(UpdateFormula::kRmsPropCentered,
                                     std::vector<std::string>{"square_average", "average"}, rho, epsilon,
                                     weight_decay);
  }
  return std::make_unique<RmsProp>(UpdateFormula::kRmsProp, std::vector<std::string>{"square_average"}, rho,
                                   epsilon, weight_decay);
}

}  // namespace lockstep
