// Momentum: gradient steps along a velocity.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Two forms:
//   averaged              v <- momentum v + (1 - momentum) g;   theta <- theta - eta v
//   classical             v <- momentum v + (1 - dampening) g;  theta <- theta - eta v   (Polyak 1964)
// For the same path the classical form needs (1 - momentum) times the learning rate of the averaged one.
// As is common practice, dampening spares the first gradient, so that the first velocity is that gradient.
struct MomentumOptions {
  double momentum = 0.9;
  bool classical = false;
  double dampening = 0.0;     // of the classical form
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
};
std::unique_ptr<Optimizer> make_momentum(const MomentumOptions& options = {});
// Keys of the same names; form = "averaged" or "classical".
std::unique_ptr<Optimizer> make_momentum(Section& section);

}  // namespace lockstep
