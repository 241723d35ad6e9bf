// A model listed layer by layer.
#include "lockstep/nn/sequential.h"

#include <fmt/format.h>

#include "lockstep/nn/chain.h"
#include "lockstep/nn/layer.h"

namespace lockstep {

std::unique_ptr<Module> make_sequential(Section& model, const DataShape& data, const ModuleBuilder& builder) {
  std::vector<Section> layers = model.tables("layers");
  if (layers.empty())
    model.reject("layers", "must list at least one layer: [[model.layers]] type = \"linear\" ...");
  auto chain = std::make_unique<Chain>();
  Signal signal{data.sample, !is_floating(data.input)};
  for (size_t i = 0; i < layers.size(); ++i) {
    const ModuleBuilder scope = builder.scope("layers").scope(std::to_string(i));
    Layer layer = make_layer(layers[i], signal, scope);
    chain->append(fmt::format("layers.{} ({})", i, layer.type), std::move(layer.module));
    signal = {layer.output, false};
  }
  const bool fits =
      signal.sample == Shape{data.outputs()} || (data.classes == 2 && signal.sample == Shape{1});
  if (!fits) {
    layers.back().reject("type", fmt::format("the last layer gives {}, the data need {}",
                                             signal.sample.to_string(), Shape{data.outputs()}.to_string()));
  }
  return chain;
}

}  // namespace lockstep
