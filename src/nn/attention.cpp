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

AttentionOptions read_attention(Section& keys, const char* layer, const Shape& input) {
  AttentionOptions options;
  options.heads =
      keys.integer("heads", 1, kSize, "attention: parts of the features that attend by themselves");
  options.causal =
      keys.boolean("causal", false, "attention: a position sees itself and those before it alone");
  require_sequence(keys, layer, input);
  constexpr int64_t kLargestHead = 256;  // what the kernels of GPUs take
  if (input[1] > kLargestHead * options.heads) {
    keys.reject("heads", fmt::format("must leave a head at most {} of the {} features, got {}", kLargestHead,
                                     input[1], options.heads));
  }
  if (input[1] % options.heads != 0) {
    keys.reject("heads", fmt::format("must divide the {} features, got {}", input[1], options.heads));
  }
  return options;
}

Layer make_attention(Section& keys, const Shape& input, const ModuleBuilder& builder) {
  const AttentionOptions options = read_attention(keys, "attention", input);
  return {std::make_unique<AttentionLayer>(input[1], options, builder), input};
}

}  // namespace lockstep
