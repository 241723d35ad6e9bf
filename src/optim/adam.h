// Adam, AdamW with decoupled weight decay, and the AMSGrad variant of both.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Update k = 1, 2, ... (Kingma and Ba 2015, algorithm 1):
//   m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
//   theta <- theta - eta (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + epsilon)
struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
  bool amsgrad = false;       // the largest v so far in place of v (Reddi, Kale and Kumar 2018)
};
// The same with theta <- (1 - eta weight_decay) theta first (Loshchilov and Hutter 2019).
struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.01;
  bool amsgrad = false;
};
std::unique_ptr<Optimizer> make_adam(const AdamOptions& options = {});
std::unique_ptr<Optimizer> make_adamw(const AdamWOptions& options = {});

// Keys of the same names; amsgrad is variant = "amsgrad" instead of "plain".
std::unique_ptr<Optimizer> make_adam(Section& section);
std::unique_ptr<Optimizer> make_adamw(Section& section);

}  // namespace lockstep
