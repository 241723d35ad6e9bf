// Reads and checks the configuration keys that several optimizers share.
#include "lockstep/optim/optimizer_keys.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

// A normal number in fp32: where all gradients were zero, 0 / (0 + epsilon) must stay 0.
constexpr double kSmallestEpsilon = 1e-30;

// Not a number is in no range.
void require(bool holds, const char* optimizer, const char* option, const char* rule, double value) {
  if (!holds)
    fail(ErrorKind::kUsage, fmt::format("{}: {} must be {}, got {}", optimizer, option, rule, value));
}

}  // namespace

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
  return section.real("epsilon", fallback, {kSmallestEpsilon}, owner + ": added to the denominator");
}

void require_decay_rate(const char* optimizer, const char* option, double value) {
  require(value >= 0.0 && value < 1.0, optimizer, option, "in [0, 1)", value);
}
void require_epsilon(const char* optimizer, const char* option, double value) {
  require(value >= kSmallestEpsilon, optimizer, option, ">= 1e-30", value);
}
void require_not_negative(const char* optimizer, const char* option, double value) {
  require(value >= 0.0, optimizer, option, ">= 0", value);
}
void require_positive(const char* optimizer, const char* option, double value) {
  require(value > 0.0, optimizer, option, "> 0", value);
}

}  // namespace lockstep
