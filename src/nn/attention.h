// Attention layer: multi-head self-attention (Vaswani et al. 2017, "Attention is all you need").
#pragma once

#include "lockstep/nn/layer.h"
#include "lockstep/nn/linear.h"

namespace lockstep {

struct AttentionOptions {
  int64_t heads = 1;    // divides the features
  bool causal = false;  // position t sees positions 0 to t alone
};

// x (B,T,C) -> (B,T,C): softmax(q k' / sqrt(C/heads)) v of every head, where q, k and v are three linear maps
// of x, side by side in `qkv` (weight (C,3C), bias (3C)), and what the heads give passes through `output`
// (weight (C,C), bias (C)). Weights are initially Xavier-uniform, biases zero.
class AttentionLayer final : public Module {
 public:
  AttentionLayer(int64_t features, const AttentionOptions& options, const ModuleBuilder& builder);
  Tensor forward(const Tensor& x, ForwardContext& context) const override;

 private:
  AttentionOptions options_;
  LinearLayer qkv_, output_;
};

// Keys `heads` and `causal` of layers over (T,features), and what these must fulfil.
AttentionOptions read_attention(Section& keys);
void require_attention(const char* layer, const AttentionOptions& options, const Shape& input);

// (T,features), unchanged.
LayerSpec attention_layer(const AttentionOptions& options = {});
// Keys: heads, causal.
LayerSpec read_attention_layer(Section& keys);
}  // namespace lockstep
