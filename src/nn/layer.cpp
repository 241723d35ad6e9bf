// The table of layer types.
#include "lockstep/nn/layer.h"

#include <fmt/format.h>

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
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

namespace {

struct LayerType {
  const char* name;
  LayerFactory make;
  Signal example;  // an input that the layer accepts, for describing its keys
};

const std::vector<LayerType>& layer_types() {
  static const std::vector<LayerType> types = {
      {"linear", make_linear, {{16}}},
      {"activation", make_activation, {{16}}},
      {"convolution", make_convolution, {{8, 8, 1}}},
      {"max_pool", make_max_pool, {{8, 8, 1}}},
      {"average_pool", make_average_pool, {{8, 8, 1}}},
      {"global_average_pool", make_global_average_pool, {{8, 8, 1}}},
      {"batch_norm", make_batch_norm, {{16}}},
      {"layer_norm", make_layer_norm, {{16}}},
      {"dropout", make_dropout, {{16}}},
      {"embedding", make_embedding, {{16}, true}},
      {"flatten", make_flatten, {{8, 8, 1}}},
      // A description has no shape to read: one element fits it.
      {"reshape", make_reshape, {{1}}},
      {"recurrent", make_recurrent, {{8, 8}}},
      {"residual_block", make_residual_block, {{8, 8, 1}}},
      {"attention", make_attention, {{8, 8}}},
      {"positions", make_positions, {{8, 8}}},
      {"mean_positions", make_mean_positions, {{8, 8}}},
      {"transformer_block", make_transformer_block, {{8, 8}}},
  };
  return types;
}

std::string read_layer_type(Section& keys) {
  std::vector<std::string> names;
  for (const LayerType& type : layer_types()) names.emplace_back(type.name);
  return keys.text("type", std::nullopt, names, "kind of layer");
}

}  // namespace

Layer make_layer(Section& keys, const Signal& input, const ModuleBuilder& builder) {
  const std::string name = read_layer_type(keys);
  for (const LayerType& type : layer_types()) {
    if (name != type.name) continue;
    if (input.indices && !type.example.indices) {
      keys.reject("type",
                  fmt::format("{} takes real numbers, got table indices {}: put an embedding layer first",
                              name, input.sample.to_string()));
    }
    if (!input.indices && type.example.indices) {
      keys.reject("type", fmt::format("{} takes table indices (int32 data), got real numbers {}", name,
                                      input.sample.to_string()));
    }
    Section own = keys.of_type(name);
    Layer layer = type.make(own, input.sample, builder);
    layer.type = name;
    return layer;
  }
  keys.reject("type", fmt::format("unknown layer {}", name));
}

void describe_layers(Section& keys) {
  read_layer_type(keys);
  ParameterStore scratch;
  for (const LayerType& type : layer_types()) {
    Section own = keys.of_type(type.name);
    type.make(own, type.example.sample, ModuleBuilder(scratch, type.name));
  }
}

void require_image(const Section& keys, const char* layer, const Shape& input) {
  if (input.rank() != 3) {
    keys.reject("type", fmt::format("{} takes images (H,W,C), got {}", layer, input.to_string()));
  }
}

void require_sequence(const Section& keys, const char* layer, const Shape& input) {
  if (input.rank() != 2) {
    keys.reject("type",
                fmt::format("{} takes (T,features), got {}: put an embedding or a reshape layer before it",
                            layer, input.to_string()));
  }
}

}  // namespace lockstep
