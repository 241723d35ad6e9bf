// Gradient descent over the whole training set, and its stochastic form over global batches.
#pragma once

#include <memory>

#include "optim/optimizer.h"

namespace lockstep {

// theta <- theta - eta g. Keys: weight_decay (0). gradient_descent asks for the gradient of the whole
// training set each step.
std::unique_ptr<Optimizer> make_gradient_descent(Section& section);
std::unique_ptr<Optimizer> make_sgd(Section& section);

}  // namespace lockstep
