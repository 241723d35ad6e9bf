// Adam and AdamW: one flat kernel each, bias corrections computed here in fp64.
#include "optim/adam.h"

#include <cmath>

#include "optim/flat_optimizer.h"
#include "optim/optimizer_keys.h"

namespace lockstep {
namespace {

struct AdamSettings {
  double beta1, beta2, epsilon;
};

AdamSettings read_settings(Section& section) {
  // The smallest epsilon is a normal number in fp32: where all gradients were zero, 0 / (0 + epsilon) must
  // stay 0.
  constexpr Range kEpsilonRange{1e-30};
  return {read_decay_rate(section, "beta1", 0.9, "share of the first moment kept each step"),
          read_decay_rate(section, "beta2", 0.999, "share of the second moment kept each step"),
          section.real("epsilon", 1e-8, kEpsilonRange, "added to the root of the second moment")};
}

class Adam final : public FlatOptimizer {
 public:
  Adam(std::string type, UpdateFormula formula, const AdamSettings& settings, double weight_decay)
      : FlatOptimizer(std::move(type), formula, {"first_moment", "second_moment"}, weight_decay),
        settings_(settings) {}

 private:
  void set_scalars(double (&scalars)[8]) const override {
    const double k = static_cast<double>(updates() + 1);
    scalars[2] = settings_.beta1;
    scalars[3] = settings_.beta2;
    scalars[4] = settings_.epsilon;
    scalars[5] = 1.0 - std::pow(settings_.beta1, k);
    scalars[6] = 1.0 - std::pow(settings_.beta2, k);
  }

  AdamSettings settings_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adam(Section& section) {
  const AdamSettings settings = read_settings(section);
  return std::make_unique<Adam>("adam", UpdateFormula::kAdam, settings, read_coupled_weight_decay(section));
}

std::unique_ptr<Optimizer> make_adamw(Section& section) {
  const AdamSettings settings = read_settings(section);
  const double weight_decay =
      section.real("weight_decay", 0.01, kNonNegative,
                   "adamw: parameters shrink by learning_rate * weight_decay each step");
  return std::make_unique<Adam>("adamw", UpdateFormula::kAdamW, settings, weight_decay);
}

}  // namespace lockstep
