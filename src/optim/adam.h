// Adam, AdamW with decoupled weight decay, and the AMSGrad variant of both.
#pragma once

#include <memory>

#include "optim/optimizer.h"

namespace lockstep {

// Update k = 1, 2, ... (Kingma and Ba 2015, algorithm 1):
//   m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
//   theta <- theta - eta (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + epsilon)
// Keys: beta1 (0.9), beta2 (0.999), epsilon (1e-8), weight_decay. adam: default 0, added to the gradient as
// weight_decay theta. adamw: default 0.01, theta <- (1 - eta weight_decay) theta first (Loshchilov and Hutter
// 2019).
// variant: "plain" (default), or "amsgrad" (Reddi, Kale and Kumar 2018): the largest v so far in place of v.
std::unique_ptr<Optimizer> make_adam(Section& section);
std::unique_ptr<Optimizer> make_adamw(Section& section);

}  // namespace lockstep
