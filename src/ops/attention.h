// Differentiable scaled dot-product attention of several heads (Vaswani et al. 2017, "Attention is all you
// need").
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

// y (B,T,C): head h, columns h*C/heads to (h+1)*C/heads of q (B,T,C), k and v (B,S,C), gives softmax(q k' /
// sqrt(C/heads)) v; B samples, T queries, S keys. With causal, query t sees keys 0 to t + S - T, and T <= S.
// Nothing of (T,S) is stored; GPUs take heads of up to 256 numbers (kUsage beyond). Error (kUsage) for
// shapes that do not fit and for heads that do not divide C.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, bool causal = false);

// The same with q, k and v side by side, as one product gives them: (B,T,3C) -> (B,T,C). So is the gradient,
// in one array.
Tensor self_attention(const Tensor& qkv, int64_t heads, bool causal = false);

// Attention within a sequence where several query heads share one of keys and values (Ainslie et al. 2023,
// "GQA"): q (B,T,heads D), k and v (B,T,kv_heads D) -> (B,T,heads D); query head h reads key head
// h / (heads / kv_heads). Query t sees keys 0 to t, or, where they are given, from first_keys[t] on, (T) or
// (B,T) int32, which do not decrease from query to query and are at most t. With this probability of
// `dropout` each weight of a value becomes 0 and the others are divided by 1 - dropout (Srivastava et al.
// 2014), by draws from the current RandomScope. Error (kUsage) for shapes that do not fit.
Tensor grouped_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, int64_t kv_heads,
                         const Tensor& first_keys = {}, double dropout = 0.0);

// The same of q, k and v side by side: (B,T,(heads + 2 kv_heads) D) -> (B,T,heads D).
Tensor grouped_self_attention(const Tensor& qkv, int64_t heads, int64_t kv_heads,
                              const Tensor& first_keys = {}, double dropout = 0.0);

// First keys (T) of queries that see a window of so many keys, their own among them.
Tensor window_first_keys(int64_t positions, int64_t window, Backend& backend);

// First keys (B,T) of queries that see their own document alone, of numbers (B,T) int32 that do not decrease
// along a row, and of it a window of so many keys (0: all).
Tensor document_first_keys(const Tensor& documents, int64_t window = 0);

}  // namespace lockstep
