// A model listed layer by layer.
#pragma once

#include <vector>

#include "lockstep/nn/layer.h"

namespace lockstep {

// Shapes are inferred from layer to layer: {linear_layer(32), activation_layer(ActivationFunction::kTanh),
// linear_layer(10)}. The last layer must give (DataShape::outputs()), or (1) with two classes. Errors
// (kUsage) name the layer, the rule and the shapes.
std::unique_ptr<Module> make_sequential(const std::vector<LayerSpec>& layers, const DataShape& data,
                                        const ModuleBuilder& builder);
// [[model.layers]] tables, each with a `type` (see layer.h) and its keys. Errors (kUsage), also those of
// building, name model.layers[i].
std::vector<LayerSpec> read_sequential(Section& model);

}  // namespace lockstep
