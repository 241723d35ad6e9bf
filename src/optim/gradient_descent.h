// Gradient descent over the whole training set, and its stochastic form over global batches.
#pragma once

#include <memory>

#include "lockstep/optim/optimizer.h"

namespace lockstep {

// theta <- theta - eta g. gradient_descent asks for the gradient of the whole training set each step.
struct GradientDescentOptions {
  double weight_decay = 0.0;  // weight_decay theta joins the gradient
};
std::unique_ptr<Optimizer> make_gradient_descent(const GradientDescentOptions& options = {});
std::unique_ptr<Optimizer> make_sgd(const GradientDescentOptions& options = {});
// Keys of the same names.
std::unique_ptr<Optimizer> make_gradient_descent(Section& section);
std::unique_ptr<Optimizer> make_sgd(Section& section);

}  // namespace lockstep
