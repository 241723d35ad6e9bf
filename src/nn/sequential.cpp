// A model listed layer by layer.
#include "lockstep/nn/sequential.h"

#include <fmt/format.h>

#include "lockstep/nn/chain.h"

namespace lockstep {

std::vector<LayerSpec> read_sequential(Section& model) {
  std::vector<LayerSpec> layers;
  for (Section& keys : model.tables("layers")) layers.push_back(read_layer(keys));
  return layers;
}

std::unique_ptr<Module> make_sequential(const std::vector<LayerSpec>& layers, const DataShape& data,
                                        const ModuleBuilder& builder) {
  if (layers.empty()) {
    throw RefusedOption("sequential", "layers",
                        "must list at least one layer: [[model.layers]] type = \"linear\" ...");
  }
  auto chain = std::make_unique<Chain>();
  Signal signal{data.sample, !is_floating(data.input)};
  for (size_t i = 0; i < layers.size(); ++i) {
    const ModuleBuilder scope = builder.scope("layers").scope(std::to_string(i));
    Layer layer = build_layer(layers[i], signal, scope);
    chain->append(fmt::format("layers.{} ({})", i, layers[i].type), std::move(layer.module));
    signal = {layer.output, false};
  }
  Shape wanted = data.positions;  // a row of outputs a target
  wanted.push_back(data.classes > 0 ? data.classes : data.targets);
  const bool fits = signal.sample == wanted || signal.sample == Shape{data.outputs()} ||
                    (data.classes == 2 && signal.sample == Shape{1});
  if (!fits) {
    const std::string rule = fmt::format("the last layer gives {}, the data need {}",
                                         signal.sample.to_string(), wanted.to_string());
    if (layers.back().refuse) layers.back().refuse("type", rule);
    throw RefusedOption("sequential", "layers", rule);
  }
  return chain;
}

}  // namespace lockstep
