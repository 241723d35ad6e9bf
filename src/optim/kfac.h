// K-FAC: each layer steps along its gradient between inverses of the two factors of its Fisher information.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Martens and Grosse 2015. Of a layer z = W a + b, g the derivative of a target's loss with respect to z, the
// Fisher information of (W, b) is approximated by the Kronecker product of
//   A = mean of (a,1) (a,1)',  G = sum of g g' / (weight of all targets)
// with targets drawn from what the model predicts, gathered every `factor_every` updates:
//   A <- factor_decay A + (1 - factor_decay) A', divided by 1 - factor_decay^(their number) where it is used
// Convolutions and other weights that positions share: rows of positions count as samples (KFC, Grosse and
// Martens 2016, up to a factor between A and G; "expand" of Eschenhagen et al. 2023). Tables: A is the
// diagonal of how often rows are looked up. Sides longer than `max_size` are diagonal too.
//
// Every `inverse_every` updates, and earlier each time that the number of estimates has doubled, with D the
// gradient in the shape (inputs, outputs) and lambda the damping:
//   "cholesky"  d = (A + pi sqrt(lambda) I)^-1 D (G + sqrt(lambda)/pi I)^-1, pi^2 the ratio of the mean
//               eigenvalues of A and G (factored Tikhonov damping, section 6.3)
//   "eigen"     d = Q ((Q' D P) / (a g' + lambda)) P',  A = Q diag(a) Q', G = P diag(g) P'
//   "ekfac"     the same with second moments of single rows in that basis in place of a g', gathered every
//               `scales_every` updates with the same decay, from a g' on (George et al. 2018, algorithm 1)
// All directions are shortened by min(1, sqrt(kl_clip / sum |eta^2 D . d|)) (Ba, Grosse and Martens 2017; 0:
// never). Then v <- momentum v + d;  theta <- theta - eta (v + weight_decay theta).
//
// Damping is constant, or every `adapt_every` updates follows the ratio rho of the decrease on the batch and
// what the quadratic model with the Gauss-Newton matrix plus lambda I predicted (section 6.5): below 1/4, or
// not a number: lambda /= 0.9^adapt_every; above 3/4: lambda *= 0.9^adapt_every; never below least_damping.
// train.l2 joins the gradient, not the factors.
//
// Factors are inverted in fp64 on the host, several at a time. One that has an element that is not finite is
// left out; an inverse that cannot be computed stays the one before, with a warning. What no layer has as its
// weight or bias alone, and what matches a pattern of `adamw`, is AdamW's.
struct KfacOptions {
  std::string method = "cholesky";  // or "eigen", "ekfac"
  std::string fisher = "sampled";   // or "empirical": the targets of the batch
  int64_t factor_every = 10, inverse_every = 100, scales_every = 1;
  double factor_decay = 0.95;
  double damping = 1e-3, least_damping = 1e-8;
  int64_t adapt_every = 0;
  double kl_clip = 1e-3;
  int64_t max_size = 4096;
  double momentum = 0.9;
  double weight_decay = 0.0;  // of all parameters
  std::vector<std::string> adamw = {};
  double adamw_learning_rate_factor = 1.0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  // of AdamW
};
std::unique_ptr<Optimizer> make_kfac(const KfacOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_kfac(Section& section);

}  // namespace lockstep
