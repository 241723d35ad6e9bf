// Which distribution a layer's weights start from, as the configuration names it.
#pragma once

#include "lockstep/core/configuration.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

// Key `initialization`: "he_normal", "he_uniform" (He et al. 2015, variance 2/fan_in, meant for
// ReLU), "xavier_normal", "xavier_uniform" (Glorot and Bengio 2010, variance 2/(fan_in + fan_out), meant for
// tanh and sigmoid).
Initializer::Kind read_initialization(Section& keys, Initializer::Kind fallback);

}  // namespace lockstep
