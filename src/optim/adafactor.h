// Adafactor: second moments of matrices kept as row and column averages only.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Shazeer and Stern 2018, algorithms 4 and 5, without first moment. Update k = 1, 2, ..., a parameter tensor
// of n elements at a time; one of more than two axes counts as the matrix of its first axis and the rest:
//   rho = min(eta, 1 / sqrt(k)),  alpha = max(scale_floor, |theta| / sqrt(n)) rho
//   beta = 1 - k^-decay_exponent
//   matrix: r <- beta r + (1 - beta) row means of g^2;  c: the same of columns;
//           v = r c' / max(mean(r), epsilon)
//   vector: v <- beta v + (1 - beta) g^2
//   u = g / sqrt(max(v, epsilon^2));
//   theta <- (1 - eta weight_decay) theta - alpha u / max(1, |u| / (sqrt(n) threshold))
// The learning rate is thus the largest step relative to the size of the parameter.
struct AdafactorOptions {
  double decay_exponent = 0.8, threshold = 1.0, scale_floor = 1e-3;
  double epsilon = 0.0;  // 0: the spacing of numbers near 1 in the parameters' dtype
  double weight_decay = 0.0;
};
std::unique_ptr<Optimizer> make_adafactor(const AdafactorOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_adafactor(Section& section);

}  // namespace lockstep
