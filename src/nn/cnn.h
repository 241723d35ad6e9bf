// Residual convolutional network for images (after He et al. 2016).
#pragma once

#include "lockstep/nn/module.h"

namespace lockstep {

// Keys: channels (of each stage), strides (of each stage's first block), blocks (a stage), batch_norm,
// activation, dropout (before the last layer), initialization.
//
// Stem: 3x3 convolution to channels[0], norm, activation. Stages of residual blocks. Global average pool,
// linear layer. Data must be images (H,W,C): Error (kUsage) otherwise.
std::unique_ptr<Module> make_cnn(Section& model, const DataShape& data, const ModuleBuilder& builder);

}  // namespace lockstep
