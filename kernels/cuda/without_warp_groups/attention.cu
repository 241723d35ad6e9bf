// What stands for attention by warp groups in a build without code for GPUs that have them: nothing.
#include "lockstep/core/error.h"
#include "lockstep/kernels/cuda/attention.h"

namespace lockstep {

bool warp_groups_multiply(int, int) {
  return false;
}

void warp_group_attention(const AttentionArguments&, const void*, const void*, const void*, void*, float*,
                          cudaStream_t) {
  fail(ErrorKind::kInternal, "attention: this build has no products of warp groups");
}

void warp_group_attention_backward(const AttentionArguments&, const void*, const void*, const void*,
                                   const float*, const void*, void*, void*, void*, const float*,
                                   cudaStream_t) {
  fail(ErrorKind::kInternal, "attention: this build has no products of warp groups");
}

}  // namespace lockstep
