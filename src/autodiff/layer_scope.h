// Layers as a backward sweep sees them: the two matrices whose product is the gradient of a weight, shown one
// by one to whoever asks, in place of that gradient. What Kronecker-factored curvature is made of.
#pragma once

#include <functional>

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// One application of a weight: rows of inputs give rows of outputs, z = a W + b.
struct LayerUse {
  int weight = -1, bias = -1;  // Leaf::index; a bias of -1: none that a gradient is asked of
  bool inputs_first = true;    // how the weight lies: (inputs, outputs), or (outputs, inputs)
  bool lookup = false;         // the weight is a table (inputs, outputs), the rows of a are those of I
  int64_t rows = 0, width = 0, outputs = 0;  // width: of a
  std::function<Tensor()> inputs;            // a (rows, width); of a lookup the indices (rows) int32
  Tensor cotangents;                         // (rows, outputs) dL/dz
};

class LayerSink {
 public:
  virtual ~LayerSink() = default;
  virtual void take(const LayerUse& use) = 0;
};

// Sets the sink of this thread for a scope around a backward sweep. Derivatives of weights and biases that it
// is shown are not computed: they reach no leaf.
class LayerScope {
 public:
  explicit LayerScope(LayerSink& sink);
  ~LayerScope();
  LayerScope(const LayerScope&) = delete;
  LayerScope& operator=(const LayerScope&) = delete;

 private:
  LayerSink* previous_;
};

// For ops: within a scope, and where the weight is a leaf, and the bias one or undefined, shows what `use`
// makes (weight and bias are filled in here) and returns true.
bool show_layer(const Tensor& weight, const Tensor& bias, const std::function<LayerUse()>& use);

}  // namespace lockstep
