// Gradient descent preconditioned by the curvature along each axis.
#pragma once

#include <memory>
#include <string>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// theta <- theta - eta P g with P = diag(h)^-1, h standing for the diagonal of the Hessian: on a quadratic
// with a diagonal matrix A this is theta <- theta - eta diag(A)^-1 A theta, which eta = 1 solves at once.
// Element by element h is the slope of the gradient over the steps taken, fitted by least squares with fading
// weights (a diagonal form of the step length of Barzilai and Borwein 1988; absolute values as in Dauphin et
// al. 2014, so that saddles are left):
//   s = theta_k - theta_{k-1},  y = g_k - g_{k-1}
//   a <- beta a + (1 - beta) s y;  b <- beta b + (1 - beta) s^2
//   h = max(|a| / b, smallest_curvature), or initial_curvature while b = 0 (the first step)
// Differences of gradients of different mini-batches are mostly noise: made for full or large batches, and
// for problems whose axes are nearly separate. A first step of eta / initial_curvature should be one that
// plain descent survives.
// With curvature = "hutchinson" h is max(|a| / (1 - beta^j), smallest_curvature) instead, a the average of j
// estimates z o H z of the Hessian's diagonal, z random signs (Hutchinson 1990; Bekas, Kokiopoulou and Saad
// 2007), made every `every` updates, a product with the Hessian each. It looks at one batch at a time, so
// that batches may differ; beta near 1 then.
struct DiagonalOptions {
  std::string curvature = "differences";  // or "hutchinson"
  int64_t every = 1;                      // of "hutchinson"
  double memory = 0.5;                    // beta
  double initial_curvature = 1.0, smallest_curvature = 1e-6;
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
};
std::unique_ptr<Optimizer> make_diagonal(const DiagonalOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_diagonal(Section& section);

}  // namespace lockstep
