// Nesterov's accelerated gradient.
#pragma once

#include <memory>

#include "optim/optimizer.h"

namespace lockstep {

// Keys: weight_decay (0), momentum (0.9), form:
//   "averaged" (default)  g is taken at the look-ahead theta - eta momentum v (before_gradient moves there);
//                         v <- momentum v + (1 - momentum) g;   theta <- theta - eta v
//   "classical"           v <- momentum v + g;   theta <- theta - eta (g + momentum v), g taken at theta
//                         (Sutskever et al. 2013)
std::unique_ptr<Optimizer> make_nesterov(Section& section);

}  // namespace lockstep
