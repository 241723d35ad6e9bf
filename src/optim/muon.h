// Muon: matrices step along their orthogonalized momentum, everything else is AdamW's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Jordan et al. 2024. A parameter of two axes or more (a convolution's weights count as the matrix of its
// output channels and the rest):
//   B <- momentum B + g;  U = g + momentum B (nesterov) or B;  X_0 = U / |U|
//   X <- a X + (b X X' + c (X X')^2) X, newton_schulz_steps times, (a, b, c) = (3.4445, -4.7750, 2.0315)
//   theta <- (1 - eta weight_decay) theta - eta s X
// X has U's singular vectors and singular values near 1. s: "original" max(1, fan_out / fan_in)^(1/2);
// "match_adamw" 0.2 max(rows, columns)^(1/2), with which AdamW's learning rates fit (Liu et al. 2025).
// Vectors, and matrices whose names match a pattern of `adamw`: AdamW with beta1, beta2, epsilon and a
// learning rate times adamw_learning_rate_factor.
struct MuonOptions {
  double momentum = 0.95;
  bool nesterov = true;
  int64_t newton_schulz_steps = 5;
  bool match_adamw = false;   // how s is chosen
  double weight_decay = 0.1;  // of all parameters
  std::vector<std::string> adamw = {};
  double adamw_learning_rate_factor = 1.0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
};
std::unique_ptr<Optimizer> make_muon(const MuonOptions& options = {});
// Keys of the same names; rate_scale = "original" or "match_adamw".
std::unique_ptr<Optimizer> make_muon(Section& section);

}  // namespace lockstep
