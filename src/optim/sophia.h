// Sophia-G: the sign of the momentum where curvature is small, its quotient by the curvature elsewhere.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Liu et al. 2023, "Sophia", algorithm 3 with the Gauss-Newton-Bartlett estimate h' (algorithm 2) of the
// curvature of a target's mean loss, which is made every `every` updates out of a sweep with targets that are
// drawn from what the model predicts:
//   m <- beta1 m + (1 - beta1) g;  h <- beta2 h + (1 - beta2) h'
//   theta <- (1 - eta weight_decay) theta - eta clip(m / (rho h + 1e-15), 1)
// element by element; with rho = gamma, and the sum in place of the paper's max(gamma h, epsilon), as in the
// authors' program, whose bs h is this h. A learning rate of about half of AdamW's. An estimate that is not
// finite is left out.
struct SophiaOptions {
  double beta1 = 0.965, beta2 = 0.99, rho = 0.04;
  int64_t every = 10;
  double weight_decay = 0.1;
};
std::unique_ptr<Optimizer> make_sophia(const SophiaOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_sophia(Section& section);

}  // namespace lockstep
