// Residual convolutional network for images.
#pragma once

#include <vector>

#include "lockstep/nn/activation.h"
#include "lockstep/nn/module.h"

namespace lockstep {

struct CnnOptions {
  std::vector<int64_t> channels = {16, 32, 64};  // of each stage
  std::vector<int64_t> strides = {1, 2, 2};      // of each stage's first block
  int64_t blocks = 1;                            // a stage
  bool batch_norm = true;                        // after every convolution
  ActivationFunction activation = ActivationFunction::kRelu;
  double dropout = 0.0;  // before the last layer
  Initializer::Kind initialization = Initializer::Kind::kHeNormal;
};

// Stem: 3x3 convolution to channels[0], norm, activation. Stages of residual blocks. Global average pool,
// linear layer. RefusedOption where options do not fit, or the data are no images (H,W,C).
std::unique_ptr<Module> make_cnn(const CnnOptions& options, const DataShape& data,
                                 const ModuleBuilder& builder);
// Keys of the same names.
CnnOptions read_cnn(Section& model);

}  // namespace lockstep
