// Nesterov's accelerated gradient.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Two forms:
//   averaged              g is taken at the look-ahead theta - eta momentum v (before_gradient moves there);
//                         v <- momentum v + (1 - momentum) g;   theta <- theta - eta v
//   classical             v <- momentum v + g;   theta <- theta - eta (g + momentum v), g taken at theta
//                         (Sutskever et al. 2013)
struct NesterovOptions {
  double momentum = 0.9;
  bool classical = false;
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
};
std::unique_ptr<Optimizer> make_nesterov(const NesterovOptions& options = {});
// Keys of the same names; form = "averaged" or "classical".
std::unique_ptr<Optimizer> make_nesterov(Section& section);

}  // namespace lockstep
