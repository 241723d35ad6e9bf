// LARS: momentum whose rate, a parameter tensor at a time, follows the ratio of its norm to its gradient's.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// You, Gitman and Ginsburg 2017, algorithm 1:
//   lambda = trust |theta| / (|g| + weight_decay |theta|)
//   v <- momentum v + eta lambda (g + weight_decay theta);  theta <- theta - v
// lambda is 1 where |theta| or |g| is 0.
struct LarsOptions {
  double momentum = 0.9, trust = 1e-3;
  double weight_decay = 0.0;
};
std::unique_ptr<Optimizer> make_lars(const LarsOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_lars(Section& section);

}  // namespace lockstep
