// Configuration keys that several optimizers read in the same way.
#pragma once

#include <string>

#include "core/configuration.h"

namespace lockstep {

// weight_decay >= 0, default 0: the gradient of (weight_decay/2)|theta|^2 joins the loss gradient.
double read_coupled_weight_decay(Section& section);

// weight_decay >= 0: parameters shrink by learning_rate * weight_decay each step, beside the gradient. owner:
// whose default this is, for descriptions.
double read_decoupled_weight_decay(Section& section, double fallback, const std::string& owner);

// How much of a running average is kept each step: in [0, 1), Error (kUsage) otherwise.
double read_decay_rate(Section& section, const std::string& key, double fallback,
                       const std::string& description);

// What keeps a denominator from 0; at least 1e-30, a normal number in fp32: where all gradients were zero,
// 0 / (0 + epsilon) must stay 0.
double read_epsilon(Section& section, double fallback, const std::string& owner);

// beta1 (0.9), beta2 (0.999) and epsilon (1e-8) of the Adam family.
struct MomentSettings {
  double beta1, beta2, epsilon;
};
MomentSettings read_moments(Section& section);

}  // namespace lockstep
