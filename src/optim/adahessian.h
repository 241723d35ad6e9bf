// AdaHessian: Adam with the diagonal of the Hessian in place of the gradient's square.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Yao et al. 2021, algorithm 1 with Hessian power 1. D = |z o H z|, z signs drawn at random, made every
// `every` updates out of a product with the Hessian; of a convolution's weights its mean over the window
// (spatial averaging). Update k, after j estimates:
//   m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) D^2
//   theta <- (1 - eta weight_decay) theta - eta (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^j)) + epsilon)
// Learning rates are larger than Adam's; the authors take 0.15 for ResNets. An estimate that is not finite is
// left out.
struct AdaHessianOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-4;
  int64_t every = 1;
  double weight_decay = 0.0;
};
std::unique_ptr<Optimizer> make_adahessian(const AdaHessianOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_adahessian(Section& section);

}  // namespace lockstep
