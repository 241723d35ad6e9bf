// Logistic regression: one linear layer from the features to the logits.
#pragma once

#include "lockstep/nn/module.h"

namespace lockstep {

// Two classes: one logit a sample, binary logistic regression (Cox 1958); more: a logit a class,
// softmax regression. Inputs of any shape are flattened. The objective is convex, so the parameters start at
// zero.
// Refuses data without classes.
std::unique_ptr<Module> make_logistic(const DataShape& data, const ModuleBuilder& builder);

}  // namespace lockstep
