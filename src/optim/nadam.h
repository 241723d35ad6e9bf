// NAdam: Adam with Nesterov's momentum.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Dozat 2016, with m and v as in Adam, k = 1, 2, ... and the warmed momentum
//   mu_k = beta1 (1 - 0.96^(k momentum_decay) / 2),  M_k = mu_1 ... mu_k:
//   theta <- theta - eta ((1 - mu_k) / (1 - M_k) g + mu_{k+1} / (1 - M_{k+1}) m)
//                        / (sqrt(v / (1 - beta2^k)) + epsilon)
struct NAdamOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double momentum_decay = 0.004;
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
};
std::unique_ptr<Optimizer> make_nadam(const NAdamOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_nadam(Section& section);

}  // namespace lockstep
