// Multilayer perceptron.
#pragma once

#include <vector>

#include "lockstep/nn/activation.h"
#include "lockstep/nn/module.h"

namespace lockstep {

struct MlpOptions {
  std::vector<int64_t> hidden = {128};  // widths of the hidden layers, may be empty
  ActivationFunction activation = ActivationFunction::kRelu;
  double dropout = 0.0;  // after every hidden layer
  Initializer::Kind initialization = Initializer::Kind::kHeNormal;
};

// Inputs of any shape are flattened; the last layer has no activation and gives DataShape::outputs() numbers.
// RefusedOption where options or data do not fit.
std::unique_ptr<Module> make_mlp(const MlpOptions& options, const DataShape& data,
                                 const ModuleBuilder& builder);
// Keys of the same names.
MlpOptions read_mlp(Section& model);

}  // namespace lockstep
