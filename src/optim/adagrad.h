// Adagrad: steps shortened by all the gradient that an element has seen.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Duchi, Hazan and Singer 2011:
//   s <- s + g^2;  theta <- theta - eta g / (sqrt(s) + epsilon)
struct AdagradOptions {
  double epsilon = 1e-10;
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
};
std::unique_ptr<Optimizer> make_adagrad(const AdagradOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_adagrad(Section& section);

}  // namespace lockstep
