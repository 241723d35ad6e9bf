// RMSProp: steps divided by the recent size of an element's gradient.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Tieleman and Hinton 2012:
//   v <- rho v + (1 - rho) g^2;  theta <- theta - eta g / (sqrt(v) + epsilon)
// centered (Graves 2013): also u <- rho u + (1 - rho) g, and the variance v - u^2 in place of v.
struct RmsPropOptions {
  double rho = 0.99, epsilon = 1e-8;
  bool centered = false;
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
};
std::unique_ptr<Optimizer> make_rmsprop(const RmsPropOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_rmsprop(Section& section);

}  // namespace lockstep
