// Multilayer perceptron.
#pragma once

#include "lockstep/nn/module.h"

namespace lockstep {

// Keys: hidden (widths, may be empty), activation, dropout (after every hidden layer), initialization.
// Inputs of any shape are flattened; the last layer has no activation and gives DataShape::outputs() numbers.
std::unique_ptr<Module> make_mlp(Section& model, const DataShape& data, const ModuleBuilder& builder);

}  // namespace lockstep
