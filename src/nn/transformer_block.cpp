// Transformer block.
#include "lockstep/nn/transformer_block.h"

#include "lockstep/nn/dropout.h"
#include "lockstep/ops/dropout.h"
#include "lockstep/ops/elementwise.h"

namespace lockstep {

namespace {

constexpr Range kExpansion{1.0, 1024.0, false};

LinearOptions with_activation(ActivationFunction activation) {
  LinearOptions options;
  options.activation = activation;
  return options;
}

LinearOptions without_activation() {
  LinearOptions options;
  options.initialization = Initializer::Kind::kXavierUniform;
  return options;
}

}  // namespace

TransformerBlock::TransformerBlock(int64_t features, const TransformerOptions& options,
                                   const ModuleBuilder& builder)
    : dropout_(options.dropout),
      attention_norm_(features, {}, builder.scope("attention_norm")),
      attention_(features, options.attention, builder.scope("attention")),
      feedforward_norm_(features, {}, builder.scope("feedforward_norm")),
      expand_(features, options.expansion * features, with_activation(options.activation),
              builder.scope("expand")),
      contract_(options.expansion * features, features, without_activation(), builder.scope("contract")) {}

Tensor TransformerBlock::dropped(const Tensor& change, const ForwardContext& context) const {
  return context.training ? dropout(change, dropout_) : change;
}

Tensor TransformerBlock::forward(const Tensor& x, ForwardContext& context) const {
  const Tensor read = attention_norm_.of_sum(x, {}, context).y;
  const Tensor change = attention_.forward(read, context);
  const NormedSum h = feedforward_norm_.of_sum(x, dropped(change, context), context);
  return add(h.sum, dropped(expand_.forward_into(contract_, h.y, context), context));
}

LayerSpec transformer_block_layer(const TransformerOptions& options) {
  return {"transformer_block", [options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_attention("transformer_block", options.attention, input);
            require_option("transformer_block", "expansion", static_cast<double>(options.expansion),
                           kExpansion);
            require_dropout("transformer_block", "dropout", options.dropout);
            return {std::make_unique<TransformerBlock>(input[1], options, builder), input};
          }};
}

LayerSpec read_transformer_block(Section& keys) {
  TransformerOptions options;
  options.attention = read_attention(keys);
  options.expansion =
      keys.integer("expansion", options.expansion, kExpansion,
                   "transformer_block: features between its two linear layers, in multiples of its own");
  options.activation = read_activation(keys, options.activation);
  options.dropout = read_dropout(keys, "dropout", options.dropout);
  return transformer_block_layer(options);
}

}  // namespace lockstep
