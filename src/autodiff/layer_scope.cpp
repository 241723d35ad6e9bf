// The current sink of layers of a thread.
#include "lockstep/autodiff/layer_scope.h"

#include "lockstep/autodiff/node.h"

namespace lockstep {
namespace {

thread_local LayerSink* current = nullptr;

const Leaf* leaf_of(const Tensor& x) {
  return x.defined() ? dynamic_cast<const Leaf*>(x.node().get()) : nullptr;
}

}  // namespace

LayerScope::LayerScope(LayerSink& sink) : previous_(current) {
  current = &sink;
}

LayerScope::~LayerScope() {
  current = previous_;
}

bool show_layer(const Tensor& weight, const Tensor& bias, const std::function<LayerUse()>& use) {
  if (current == nullptr) return false;
  const Leaf *weight_leaf = leaf_of(weight), *bias_leaf = leaf_of(bias);
  if (weight_leaf == nullptr || (bias.defined() && bias_leaf == nullptr)) return false;
  LayerUse shown = use();
  shown.weight = weight_leaf->index;
  shown.bias = bias_leaf == nullptr ? -1 : bias_leaf->index;
  current->take(shown);
  return true;
}

}  // namespace lockstep
