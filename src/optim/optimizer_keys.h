// Configuration keys that several optimizers read in the same way.
#pragma once

#include <string>

#include "core/configuration.h"

namespace lockstep {

// weight_decay >= 0, default 0: the gradient of (weight_decay/2)|theta|^2 joins the loss gradient.
double read_coupled_weight_decay(Section& section);

// How much of a running average is kept each step: in [0, 1), Error (kUsage) otherwise.
double read_decay_rate(Section& section, const std::string& key, double fallback,
                       const std::string& description);

}  // namespace lockstep
