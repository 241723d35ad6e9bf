// The table of layer types.
#include "lockstep/nn/layer.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"
#include "lockstep/nn/activation.h"
#include "lockstep/nn/attention.h"
#include "lockstep/nn/batch_norm.h"
#include "lockstep/nn/convolution.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/embedding.h"
#include "lockstep/nn/layer_norm.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/pooling.h"
#include "lockstep/nn/positions.h"
#include "lockstep/nn/recurrent.h"
#include "lockstep/nn/reshape.h"
#include "lockstep/nn/residual_block.h"
#include "lockstep/nn/transformer_block.h"

namespace lockstep {

namespace {

struct LayerType {
  std::string name;
  LayerReader read;
};

std::vector<LayerType>& registered_layers() {
  static std::vector<LayerType> types = {
      {"linear", read_linear},
      {"activation", read_activation_layer},
      {"convolution", read_convolution},
      {"max_pool", read_max_pool},
      {"average_pool", read_average_pool},
      {"global_average_pool", [](Section&) { return global_average_pool_layer(); }},
      {"batch_norm", read_batch_norm},
      {"layer_norm", read_layer_norm},
      {"dropout", read_dropout_layer},
      {"embedding", read_embedding},
      {"flatten", [](Section&) { return flatten_layer(); }},
      {"reshape", read_reshape},
      {"recurrent", read_recurrent},
      {"residual_block", read_residual_block},
      {"attention", read_attention_layer},
      {"positions", [](Section&) { return positions_layer(); }},
      {"mean_positions", [](Section&) { return mean_positions_layer(); }},
      {"transformer_block", read_transformer_block},
  };
  return types;
}

std::string read_layer_type(Section& keys) {
  return keys.text("type", std::nullopt, layer_types(), "kind of layer");
}

}  // namespace

void register_layer(const std::string& type, LayerReader read) {
  if (std::ranges::count(layer_types(), type) > 0)
    fail(ErrorKind::kUsage, fmt::format("register_layer: there is already a layer \"{}\"", type));
  registered_layers().push_back({type, std::move(read)});
}

std::vector<std::string> layer_types() {
  std::vector<std::string> names;
  for (const LayerType& type : registered_layers()) names.push_back(type.name);
  return names;
}

LayerSpec read_layer(Section& keys) {
  const std::string name = read_layer_type(keys);
  const auto type = std::ranges::find(registered_layers(), name, &LayerType::name);
  Section own = keys.of_type(name);
  LayerSpec spec = type->read(own);
  spec.type = name;
  spec.refuse = [keys](const std::string& key, const std::string& rule) { keys.reject(key, rule); };
  return spec;
}

void describe_layers(Section& keys) {
  read_layer_type(keys);
  for (const LayerType& type : registered_layers()) {
    Section own = keys.of_type(type.name);
    type.read(own);
  }
}

Layer build_layer(const LayerSpec& spec, const Signal& input, const ModuleBuilder& builder) {
  try {
    if (input.indices && !spec.indices) {
      throw RefusedOption(spec.type, "type",
                          fmt::format("{} takes real numbers, got table indices {}: put an embedding layer "
                                      "first",
                                      spec.type, input.sample.to_string()));
    }
    if (!input.indices && spec.indices) {
      throw RefusedOption(spec.type, "type",
                          fmt::format("{} takes table indices (int32 data), got real numbers {}", spec.type,
                                      input.sample.to_string()));
    }
    if (!spec.build) throw RefusedOption(spec.type, "type", "the layer says nothing of how it is built");
    Layer layer = spec.build(input.sample, builder);
    if (!layer.module) throw RefusedOption(spec.type, "type", spec.type + " has built no module");
    return layer;
  } catch (const RefusedOption& refused) {
    if (spec.refuse) spec.refuse(refused.key(), refused.rule());
    fail(ErrorKind::kUsage, fmt::format("{}: {}", builder.prefix(), refused.what()));
  }
}

void require_image(const char* layer, const Shape& input) {
  if (input.rank() != 3) {
    throw RefusedOption(layer, "type",
                        fmt::format("{} takes images (H,W,C), got {}", layer, input.to_string()));
  }
}

void require_sequence(const char* layer, const Shape& input) {
  if (input.rank() != 2) {
    throw RefusedOption(
        layer, "type",
        fmt::format("{} takes (T,features), got {}: put an embedding or a reshape layer before it", layer,
                    input.to_string()));
  }
}

}  // namespace lockstep
