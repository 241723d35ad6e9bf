// RMSProp: steps divided by the recent size of an element's gradient.
#pragma once

#include <memory>

#include "optim/optimizer.h"

namespace lockstep {

// Tieleman and Hinton 2012:
//   v <- rho v + (1 - rho) g^2;  theta <- theta - eta g / (sqrt(v) + epsilon)
// centered (Graves 2013): also u <- rho u + (1 - rho) g, and the variance v - u^2 in place of v.
// Keys: rho (0.99), centered (false), epsilon (1e-8), weight_decay (0), added to the gradient as
// weight_decay theta.
std::unique_ptr<Optimizer> make_rmsprop(Section& section);

}  // namespace lockstep
