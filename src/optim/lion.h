// Lion: steps of one size, in the direction of the sign of a momentum.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Chen et al. 2023, algorithm 2:
//   theta <- theta - eta (sign(beta1 m + (1 - beta1) g) + weight_decay theta);  m <- beta2 m + (1 - beta2) g
// It wants a learning rate 3 to 10 times smaller than AdamW's and a weight decay as much larger.
struct LionOptions {
  double beta1 = 0.9, beta2 = 0.99;
  double weight_decay = 0.0;
};
std::unique_ptr<Optimizer> make_lion(const LionOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_lion(Section& section);

}  // namespace lockstep
