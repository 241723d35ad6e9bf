// Attention as operation graphs.
#pragma once

#include "lockstep/kernels/cuda/with_cudnn/graph.h"

namespace lockstep {

// Ids of the arrays of a call, and of its numbers.
enum AttentionArray : int64_t {
  kAttentionQ = 1,
  kAttentionK,
  kAttentionV,
  kAttentionY,
  kAttentionLogSums,
  kAttentionDy,
  kAttentionDq,
  kAttentionDk,
  kAttentionDv,
  kAttentionRowSums,
  kAttentionScale,
  kAttentionMasked,
  kAttentionOne
};

// Arrays and their rows begin at multiples of kCudnnAlignment.
//
// y and log_sums; kAttentionScale is arguments.scale, kAttentionMasked what scores become that a causal query
// does not see.
void build_attention(const AttentionArguments& arguments, CudnnGraph& graph);
// dq, dk and dv; kAttentionRowSums: working memory (batch, heads, queries) in fp32, kAttentionOne: 1.
void build_attention_backward(const AttentionArguments& arguments, CudnnGraph& graph);

}  // namespace lockstep
