// Which weights of a model layers are made of: found out by a sweep, not declared, so that models that others
// have written are known too.
#pragma once

#include <vector>

#include "lockstep/nn/module.h"
#include "lockstep/optim/layer_curvature.h"

namespace lockstep {

// Of a forward and backward sweep over one sample of zeros: every weight that one linear layer, convolution
// or table applies once, and nothing else uses. `context` is left as it is.
std::vector<CurvedLayer> find_layers(const Module& model, const ParameterStore& store, const DataShape& data,
                                     ForwardContext context);

}  // namespace lockstep
