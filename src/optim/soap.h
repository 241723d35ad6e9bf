// SOAP: Adam in the eigenbasis of Shampoo's factors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Vyas et al. 2024, algorithm 3, with Adam's bias corrections. A parameter of two axes or more counts as the
// matrix of its first axis and the rest. The first update, as in the authors' implementation, only gathers
//   L = (1 - beta2) G G';  R = (1 - beta2) G'G;  their eigenvectors Q_L, Q_R by descending eigenvalues
// and moves nothing. Update k after it, from 1:
//   H = Q_L' G Q_R;  m <- beta1 m + (1 - beta1) H;  v <- beta2 v + (1 - beta2) H^2
//   theta <- theta - eta (1 - beta2^k)^(1/2) / (1 - beta1^k) Q_L (m / (v^(1/2) + epsilon)) Q_R'
//   theta <- (1 - eta weight_decay) theta
//   L <- beta2 L + (1 - beta2) G G';  R the same
//   every basis_every of them, a step of orthogonal iteration: Q's columns and v in the order of descending
//   q'Lq, Q <- qr(L Q), and m turned from the old basis into the new one.
// A side longer than most_dimension has no basis: Q = I. Bases are computed in fp64 on the host, the rest on
// the parameters' device in their type. Where a gradient is so large that its square is none of that type's
// numbers, it leaves L and R alone.
// Vectors, and matrices whose names match a pattern of `adamw`: as Muon's.
struct SoapOptions {
  double beta1 = 0.95, beta2 = 0.95, epsilon = 1e-8;
  int64_t basis_every = 10;
  int64_t most_dimension = 10000;
  double weight_decay = 0.01;  // of all parameters
  std::vector<std::string> adamw = {};
  double adamw_learning_rate_factor = 1.0;
};
std::unique_ptr<Optimizer> make_soap(const SoapOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_soap(Section& section);

}  // namespace lockstep
