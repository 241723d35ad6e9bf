// Transformer block: attention, then a network of two layers at every position, each added to what it read.
#pragma once

#include "lockstep/nn/attention.h"
#include "lockstep/nn/layer_norm.h"
#include "lockstep/nn/linear.h"

namespace lockstep {

struct TransformerOptions {
  AttentionOptions attention = {};
  int64_t expansion = 4;  // features between the two linear layers, in multiples of the block's
  ActivationFunction activation = ActivationFunction::kGelu;  // between them
  double dropout = 0.0;                                       // of what is added, in training
};

// x (B,T,C) -> (B,T,C), norms before what they feed (Radford et al. 2019, "GPT-2"; Xiong et al. 2020, "On
// layer normalization in the transformer architecture"):
//   h = x + attention(attention_norm(x));  y = h + contract(activation(expand(feedforward_norm(h))))
class TransformerBlock final : public Module {
 public:
  TransformerBlock(int64_t features, const TransformerOptions& options, const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  Tensor dropped(const Tensor& change, const ForwardContext& context) const;

  double dropout_;
  LayerNormLayer attention_norm_;
  AttentionLayer attention_;
  LayerNormLayer feedforward_norm_;
  LinearLayer expand_, contract_;
};

// (T,features), unchanged.
LayerSpec transformer_block_layer(const TransformerOptions& options = {});
// Keys: heads, causal, expansion, activation, dropout.
LayerSpec read_transformer_block(Section& keys);

}  // namespace lockstep
