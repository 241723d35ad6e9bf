// A sweep that only looks.
#include "lockstep/train/curved_layers.h"

#include <algorithm>
#include <set>

#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/layer_scope.h"
#include "lockstep/autodiff/random_scope.h"

namespace lockstep {
namespace {

class Uses final : public LayerSink {
 public:
  void take(const LayerUse& use) override { uses_.push_back(use); }
  const std::vector<LayerUse>& all() const { return uses_; }
  int64_t count(int parameter) const {
    return std::ranges::count_if(
        uses_, [=](const LayerUse& use) { return use.weight == parameter || use.bias == parameter; });
  }

 private:
  std::vector<LayerUse> uses_;
};

}  // namespace

std::vector<CurvedLayer> find_layers(const Module& model, const ParameterStore& store, const DataShape& data,
                                     ForwardContext context) {
  Backend& backend = store.backend();
  Shape shape{2};
  for (const int64_t extent : data.sample.extents()) shape.push_back(extent);
  Tensor inputs = Tensor::zeros(shape, data.input == DType::kI32 ? DType::kI32 : store.dtype(), backend);
  if (data.input == DType::kI32) inputs.set_index_range({0, 0});
  for (size_t place = 0; place < context.frozen.size(); ++place) {
    if (!context.frozen[place].defined())
      context.frozen[place] = Tensor::zeros(store.frozen()[place].shape, store.dtype(), backend);
  }
  const RandomScope random(0, 0, 0);
  const Tensor outputs = model.forward(inputs, context);
  Uses uses;
  std::set<int> used_otherwise;
  {
    const LayerScope scope(uses);
    backward(outputs, outputs.full_like(1.0),
             [&](const Leaf& leaf, const Tensor&) { used_otherwise.insert(leaf.index); });
  }
  const auto alone = [&](int parameter) {
    return parameter >= 0 && uses.count(parameter) == 1 && !used_otherwise.contains(parameter);
  };
  std::vector<CurvedLayer> layers;
  for (const LayerUse& use : uses.all()) {
    if (!alone(use.weight)) continue;
    CurvedLayer layer;
    layer.weight = static_cast<size_t>(use.weight);
    // One that lies elsewhere would be another worker's.
    layer.bias = use.bias == use.weight + 1 && alone(use.bias);
    layer.inputs_first = use.inputs_first;
    layer.lookup = use.lookup;
    layer.inputs = use.width + (layer.bias ? 1 : 0);
    layer.outputs = use.outputs;
    layers.push_back(layer);
  }
  std::ranges::sort(layers, {}, &CurvedLayer::weight);
  return layers;
}

}  // namespace lockstep
