// Differentiable scaled dot-product attention of several heads (Vaswani et al. 2017, "Attention is all you
// need").
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// y (B,T,C): head h, columns h*C/heads to (h+1)*C/heads of q (B,T,C), k and v (B,S,C), gives softmax(q k' /
// sqrt(C/heads)) v; B samples, T queries, S keys. With causal, query t sees keys 0 to t + S - T, and T <= S.
// Nothing of (T,S) is stored; GPUs take heads of up to 256 numbers (kUsage beyond). Error (kInternal) for
// shapes that do not fit and for heads that do not divide C.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, bool causal = false);

// The same with q, k and v side by side, as one product gives them: (B,T,3C) -> (B,T,C). So is the gradient,
// in one array.
Tensor self_attention(const Tensor& qkv, int64_t heads, bool causal = false);

// Attention within a sequence where several query heads share one of keys and values (Ainslie et al. 2023,
// "GQA"): q (B,T,heads D), k and v (B,T,kv_heads D) -> (B,T,heads D); query head h reads key head
// h / (heads / kv_heads). Query t sees keys 0 to t, or, where `visible` is given, (T,T) or (B,T,T), those at
// which its row holds 1; it holds 0 elsewhere, and each query sees a key. The scores of all heads,
// (B,heads,T,T), are stored then. Error (kInternal) for shapes that do not fit.
Tensor grouped_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, int64_t kv_heads,
                         const Tensor& visible = {});

}  // namespace lockstep
