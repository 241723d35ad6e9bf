// Shampoo: a matrix steps along its gradient between inverse roots of the gradient's second moments.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Gupta, Koren and Singer 2018, algorithm 1, as Shi et al. 2023 (sections 3 and 4) run it distributed. A
// parameter of two axes or more (a convolution's weights count as the matrix of its output channels and the
// rest) is cut into blocks G of at most block x block; update k:
//   m <- beta1 m + (1 - beta1) g;  M = m / (1 - beta1^k)
//   each block, every statistics_every updates:  L <- beta2 L + (1 - beta2) G G';  R <- beta2 R + (1 - beta2)
//   G'G
//     (beta2 = 1: sums, as the paper's); divided by 1 - beta2^(their number) where they are used
//   every root_every updates from update `start` on:  A = (L + root_epsilon I)^-exponent, B of R the same
//   D = A M B for each block;  theta <- theta - eta (D + weight_decay theta)
// Grafting (Agarwal et al. 2020): each block's D is given the length of another method's direction, which is
// taken itself before update `start`: "adam" M / (sqrt(v^) + epsilon) with beta2 its own decay; "sgd" M;
// "none": D as it is. Roots are computed in fp64 on the host, the blocks on several threads, the rest on the
// parameters' device in their type. Where a gradient is so large that its square is none of that type's
// numbers, it leaves L and R alone; a root that cannot be computed stays the one before, with a warning.
// Vectors, and matrices whose names match a pattern of `adamw`: as Muon's.
struct ShampooOptions {
  int64_t block = 1024;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double root_epsilon = 1e-12, exponent = 0.25;
  int64_t statistics_every = 1, root_every = 100;
  int64_t start = 0;  // 0: root_every, and 1 without grafting
  std::string grafting = "adam";
  double grafting_beta2 = 0.999;
  double weight_decay = 0.01;  // of all parameters
  std::vector<std::string> adamw = {};
  double adamw_learning_rate_factor = 1.0;
};
std::unique_ptr<Optimizer> make_shampoo(const ShampooOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_shampoo(Section& section);

}  // namespace lockstep
