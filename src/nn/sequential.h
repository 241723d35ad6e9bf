// A model listed layer by layer in the configuration.
#pragma once

#include "lockstep/nn/module.h"

namespace lockstep {

// [[model.layers]] tables, each with a `type` (see layer.h) and its keys; shapes are inferred from layer to
// layer. The last layer must give (DataShape::outputs()), or (1) with two classes. Errors (kUsage) name
// model.layers[i], the rule and the shapes.
std::unique_ptr<Module> make_sequential(Section& model, const DataShape& data, const ModuleBuilder& builder);

}  // namespace lockstep
