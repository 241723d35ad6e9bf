// Reads and checks the configuration keys that several optimizers share.
#include "optim/optimizer_keys.h"

#include <fmt/format.h>

namespace lockstep {

double read_coupled_weight_decay(Section& section) {
  return section.real("weight_decay", 0.0, kNonNegative, "weight_decay * parameter is added to the gradient");
}

double read_decay_rate(Section& section, const std::string& key, double fallback,
                       const std::string& description) {
  const double rate = section.real(key, fallback, kUnit, description + "; less than 1");
  // A rate of 1 would never let a gradient in (and divides by zero in a bias correction).
  if (rate >= 1.0) section.reject(key, fmt::format("must be < 1, got {}", rate));
  return rate;
}

}  // namespace lockstep
