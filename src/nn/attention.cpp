// Attention layer.
#include "lockstep/nn/attention.h"

#include <fmt/format.h>

#include "lockstep/ops/attention.h"

namespace lockstep {

namespace {

LinearOptions projection() {
  LinearOptions options;
  options.initialization = Initializer::Kind::kXavierUniform;
  return options;
}

}  // namespace

AttentionLayer::AttentionLayer(int64_t features, const AttentionOptions& options,
                               const ModuleBuilder& builder)
    : options_(options),
      qkv_(features, 3 * features, projection(), builder.scope("qkv")),
      output_(features, features, projection(), builder.scope("output")) {}

Tensor AttentionLayer::forward(const Tensor& x, ForwardContext& context) const {
  return output_.forward(self_attention(qkv_.forward(x, context), options_.heads, options_.causal), context);
}

AttentionOptions read_attention(Section& keys) {
  AttentionOptions options;
  options.heads = keys.integer("heads", options.heads, kSize,
                               "attention: parts of the features that attend by themselves");
  options.causal =
      keys.boolean("causal", options.causal, "attention: a position sees itself and those before it alone");
  return options;
}

void require_attention(const char* layer, const AttentionOptions& options, const Shape& input) {
  require_option(layer, "heads", static_cast<double>(options.heads), kSize);
  require_sequence(layer, input);
  constexpr int64_t kLargestHead = 256;  // what the kernels of GPUs take
  if (input[1] > kLargestHead * options.heads) {
    throw RefusedOption(layer, "heads",
                        fmt::format("must leave a head at most {} of the {} features, got {}", kLargestHead,
                                    input[1], options.heads));
  }
  if (input[1] % options.heads != 0) {
    throw RefusedOption(layer, "heads",
                        fmt::format("must divide the {} features, got {}", input[1], options.heads));
  }
}

LayerSpec attention_layer(const AttentionOptions& options) {
  return {"attention", [options](const Shape& input, const ModuleBuilder& builder) -> Layer {
            require_attention("attention", options, input);
            return {std::make_unique<AttentionLayer>(input[1], options, builder), input};
          }};
}

LayerSpec read_attention_layer(Section& keys) {
  return attention_layer(read_attention(keys));
}

}  // namespace lockstep
