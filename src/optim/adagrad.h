// Adagrad: steps shortened by all the gradient that an element has seen.
#pragma once

#include <memory>

#include "optim/optimizer.h"

namespace lockstep {

// Duchi, Hazan and Singer 2011:
//   s <- s + g^2;  theta <- theta - eta g / (sqrt(s) + epsilon)
// Keys: epsilon (1e-10), weight_decay (0), added to the gradient as weight_decay theta.
std::unique_ptr<Optimizer> make_adagrad(Section& section);

}  // namespace lockstep
