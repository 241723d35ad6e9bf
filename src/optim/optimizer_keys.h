// Configuration keys that several optimizers read in the same way.
#pragma once

#include <string>

#include "lockstep/core/configuration.h"

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

// beta1, beta2 and epsilon of the Adam family, into options that hold the defaults.
template <class Options>
void read_moments(Section& section, Options& options) {
  options.beta1 =
      read_decay_rate(section, "beta1", options.beta1, "share of the first moment kept each step");
  options.beta2 =
      read_decay_rate(section, "beta2", options.beta2, "share of the second moment kept each step");
  options.epsilon =
      read_epsilon(section, options.epsilon, "adam, adamw, nadam, muon, shampoo, soap, kfac, adahessian");
}

// The same rules for options that a program has filled in: Error (kUsage) "adam: beta1 must be in [0, 1), got
// 1".
void require_decay_rate(const char* optimizer, const char* option, double value);
void require_epsilon(const char* optimizer, const char* option, double value);
void require_not_negative(const char* optimizer, const char* option, double value);
void require_positive(const char* optimizer, const char* option, double value);
template <class Options>
void require_moments(const char* optimizer, const Options& options) {
  require_decay_rate(optimizer, "beta1", options.beta1);
  require_decay_rate(optimizer, "beta2", options.beta2);
  require_epsilon(optimizer, "epsilon", options.epsilon);
  require_not_negative(optimizer, "weight_decay", options.weight_decay);
}

}  // namespace lockstep
