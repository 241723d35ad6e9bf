// Momentum: gradient steps along a velocity.
#pragma once

#include <memory>

#include "optim/optimizer.h"

namespace lockstep {

// Keys: weight_decay (0), momentum (0.9), dampening (0), form:
//   "averaged" (default)  v <- momentum v + (1 - momentum) g;   theta <- theta - eta v
//   "classical"           v <- momentum v + (1 - dampening) g;  theta <- theta - eta v   (Polyak 1964)
// For the same path the classical form needs (1 - momentum) times the learning rate of the averaged one.
// As is common practice, dampening spares the first gradient, so that the first velocity is that gradient.
std::unique_ptr<Optimizer> make_momentum(Section& section);

}  // namespace lockstep
