#include "lockstep/kernels/cuda/attention_on_tensor_cores.h"

namespace lockstep {

using namespace tensor_attention;

namespace {

// 64 own rows a block: of a thread's registers, sums take half as many as numbers are in a row, and scores
// half as many as others' rows; for keys there are twice as many of either. Rows are whole panels: of parts
// of them, rows of a right operand are nothing that libraries multiply.
template <int kWidth, int kOthers>
using GroupPlan = Plan<Multiplier::kFourWarps, kWidth <= 64 ? 64 : 128, 1, kOthers>;
struct BlockPlans {
  template <int kWidth, bool kDropout>
  using Forward = GroupPlan<kWidth, 64>;
  template <int kWidth, bool kDropout>
  using Queries = GroupPlan<kWidth, 64>;
  template <int kWidth, bool kDropout>
  using Keys = GroupPlan<kWidth, kWidth == 64 && !kDropout ? 64 : 32>;
};

}  // namespace

bool warp_groups_multiply(int major, int minor) {
  return major == 9 && minor == 0;
}

void warp_group_attention(const AttentionArguments& a, const void* q, const void* k, const void* v, void* y,
                          float* log_sums, cudaStream_t stream) {
  forward<BlockPlans>(a, q, k, v, y, log_sums, stream);
}

void warp_group_attention_backward(const AttentionArguments& a, const void* q, const void* k, const void* v,
                                   const float* log_sums, const void* dy, void* dq, void* dk, void* dv,
                                   const float* row_sums, cudaStream_t stream) {
  backward<BlockPlans>(a, q, k, v, log_sums, dy, dq, dk, dv, row_sums, stream);
}

}  // namespace lockstep
