// Reads and checks the configuration keys that several optimizers share.
#include "optim/optimizer_keys.h"

#include <fmt/format.h>

namespace lockstep {

double read_coupled_weight_decay(Section& section) {
  return section.real("weight_decay", 0.0, kNonNegative, "weight_decay * parameter is added to the gradient");
}

double read_decoupled_weight_decay(Section& section, double fallback, const std::string& owner) {
  return section.real("weight_decay", fallback, kNonNegative,
                      owner + ": parameters shrink by learning_rate * weight_decay each step");
}

double read_decay_rate(Section& section, const std::string& key, double fallback,
                       const std::string& description) {
  const double rate = section.real(key, fallback, kUnit, description + "; less than 1");
  // A rate of 1 would never let a gradient in (and divides by zero in a bias correction).
  if (rate >= 1.0) section.reject(key, fmt::format("must be < 1, got {}", rate));
  return rate;
}

double read_epsilon(Section& section, double fallback, const std::string& owner) {
  return section.real("epsilon", fallback, {1e-30}, owner + ": added to the denominator");
}

MomentSettings read_moments(Section& section) {
  return {read_decay_rate(section, "beta1", 0.9, "share of the first moment kept each step"),
          read_decay_rate(section, "beta2", 0.999, "share of the second moment kept each step"),
          read_epsilon(section, 1e-8, "adam, adamw, nadam, muon")};
}

}  // namespace lockstep
