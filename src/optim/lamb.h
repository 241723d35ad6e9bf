// LAMB: Adam's direction, with a step as long as the parameter's norm says.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// You et al. 2020, algorithm 2 with phi(z) = z, a parameter tensor at a time, m^ and v^ bias-corrected as in
// Adam:
//   r = m^ / (sqrt(v^) + epsilon) + weight_decay theta;  theta <- theta - eta (|theta| / |r|) r
// The ratio is 1 where either norm is 0.
struct LambOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6;
  double weight_decay = 0.01;
};
std::unique_ptr<Optimizer> make_lamb(const LambOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_lamb(Section& section);

}  // namespace lockstep
