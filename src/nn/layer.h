// Layers that a configuration can list: built from their keys and the shape that reaches them.
//
// Shapes here are of one sample, without the batch axis: (features), (T,features) or (H,W,C). A layer checks
// its input when it is built, so that a wrong configuration fails before training. A new layer is a file pair
// and a line in the table of layer.cpp.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/nn/module.h"

namespace lockstep {

// A layer and the shape of what it gives for one sample.
struct Layer {
  std::unique_ptr<Module> module;
  Shape output;
  std::string type = {};  // filled in by make_layer
};

// Reads the layer's own keys, checks that the input's shape fits (Section::reject otherwise) and declares
// parameters.
using LayerFactory = Layer (*)(Section& keys, const Shape& input, const ModuleBuilder& builder);

// What leaves the data set or a layer: `indices` says that the elements are int32 table indices, not real
// numbers.
struct Signal {
  Shape sample;
  bool indices = false;
};

// Reads `type` from one element of [[model.layers]] and builds that layer. Error (kUsage) names the element,
// the rule and the shapes.
Layer make_layer(Section& keys, const Signal& input, const ModuleBuilder& builder);

// Reads the keys of every layer type, for `lockstep config --describe`; `keys` belongs to
// Configuration::for_description.
void describe_layers(Section& keys);

// Sizes that a configuration may ask for: small enough that products of a few of them stay far from overflow.
inline constexpr Range kSize{1.0, 1048576.0, false};

// Requires an image, (H,W,C): rejects `type` otherwise.
void require_image(const Section& keys, const char* layer, const Shape& input);

// Requires a sequence, (T,features), alike.
void require_sequence(const Section& keys, const char* layer, const Shape& input);

}  // namespace lockstep
