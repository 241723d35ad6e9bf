// Layers as values: options that a program or a configuration gives, built for the shape that reaches them.
//
// Shapes here are of one sample, without the batch axis: (features), (T,features) or (H,W,C). A layer checks
// its options and its input when it is built, so that a wrong one fails before training. A new layer is a
// file pair and a line in the table of layer.cpp; outside of the library, register_layer().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/nn/module.h"
#include "lockstep/nn/refused_option.h"

namespace lockstep {

// A layer and the shape of what it gives for one sample.
struct Layer {
  std::unique_ptr<Module> module;
  Shape output;
};

// A layer before its input is known: what linear_layer(32) gives.
struct LayerSpec {
  std::string type;  // "linear", for messages
  // Checks options and the input's shape (RefusedOption) and declares parameters.
  std::function<Layer(const Shape& input, const ModuleBuilder& builder)> build;
  bool indices = false;  // takes int32 table indices instead of real numbers
  // Of one that a configuration lists: throws what names the key's place there.
  std::function<void(const std::string& key, const std::string& rule)> refuse = {};
};

// What leaves the data set or a layer: `indices` says that the elements are int32 table indices, not real
// numbers.
struct Signal {
  Shape sample;
  bool indices = false;
};

// Error (kUsage) with the layer's name in the model, the rule and the shapes.
Layer build_layer(const LayerSpec& spec, const Signal& input, const ModuleBuilder& builder);

// A program's own layers, by name in the type of [[model.layers]]. The reader reads the layer's keys. Error
// (kUsage) when the name is taken.
using LayerReader = std::function<LayerSpec(Section& keys)>;
void register_layer(const std::string& type, LayerReader read);
std::vector<std::string> layer_types();

// Reads `type` and its keys from one element of [[model.layers]]. Errors (kUsage) name the element, also
// those of building the layer.
LayerSpec read_layer(Section& keys);

// Reads the keys of every layer type, for `lockstep config --describe`; `keys` belongs to
// Configuration::for_description.
void describe_layers(Section& keys);

// Sizes that a configuration may ask for: small enough that products of a few of them stay far from overflow.
inline constexpr Range kSize{1.0, 1048576.0, false};

// Requires an image, (H,W,C): refuses `type` otherwise.
void require_image(const char* layer, const Shape& input);

// Requires a sequence, (T,features), alike.
void require_sequence(const char* layer, const Shape& input);

}  // namespace lockstep
