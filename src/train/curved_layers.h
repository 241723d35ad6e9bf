// Which weights of a model layers are made of: found out by a sweep, not declared, so that models that others
// have written are known too.
#pragma once

#include <vector>

#include "lockstep/nn/module.h"
#include "lockstep/optim/layer_curvature.h"

namespace lockstep {

// Of a forward and backward sweep over two samples of zeros, since a norm over the samples of a batch takes
// no less: every weight that one linear layer, convolution or table applies once, and nothing else uses.
// `context` is left as it is.
std::vector<CurvedLayer> find_layers(const Module& model, const ParameterStore& store, const DataShape& data,
                                     ForwardContext context);

}  // namespace lockstep
