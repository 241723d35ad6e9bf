#include "lockstep/kernels/cuda/attention_on_tensor_cores.h"

namespace lockstep {

using namespace tensor_attention;

namespace {

// As much as registers hold: the more own rows a warp has, the less often others' are read.
struct BlockPlans {
  template <int kWidth, bool kDropout>
  using Forward = Plan<Multiplier::kOneWarp, kWidth, kDropout ? 1 : 2, kWidth == 64 ? 64 : 32>;
  template <int kWidth, bool kDropout>
  using Queries = Plan<Multiplier::kOneWarp, kWidth, kDropout || kWidth == 128 ? 1 : 2, 32>;
  template <int kWidth, bool kDropout>
  using Keys = Plan<Multiplier::kOneWarp, kWidth, kDropout || kWidth != 64 ? 1 : 2,
                    kDropout && kWidth == 128 ? 16 : 32>;
};

// row_sums (batch, heads, queries) = sum of dy y over a head's numbers, so many lanes a query, 8 numbers
// each.
template <class S, int kLanes>
__global__ void __launch_bounds__(kThreads)
    tensor_row_sums_kernel(AttentionArguments a, const S* y, const S* dy, float* row_sums) {
  const int64_t number = global_thread() / kLanes;
  const bool exists = number < a.batch * a.heads * a.queries;
  const int64_t query = exists ? number : 0, row = a.heads * a.size;
  const int64_t begin = head_begin(a, a.heads, query / a.queries, a.queries, row) + query % a.queries * row;
  const int column = static_cast<int>(threadIdx.x) % kLanes * 8;
  float sum = 0;
  if (column < a.size) {
    float left[8], right[8];
    widen_vector(load_vector<8>(dy + begin + column), left);
    widen_vector(load_vector<8>(y + begin + column), right);
    LOCKSTEP_UNROLL
    for (int i = 0; i < 8; ++i) sum = std::fma(left[i], right[i], sum);
  }
  sum = warp_reduce<Plus, kLanes>(sum);
  if (exists && column == 0) row_sums[query] = sum;
}

}  // namespace

bool is_for_tensor_cores(const AttentionArguments& a, std::initializer_list<const void*> arrays) {
  constexpr int64_t kMost = int64_t{1} << 30;  // positions are ints in a kernel
  const bool narrow = a.dtype == DType::kBF16 || a.dtype == DType::kF16;
  if (!narrow || a.size > kLargestSize || !(static_cast<float>(a.scale) > 0.0f) || a.queries > kMost ||
      a.keys > kMost)
    return false;
  for (int64_t extent : {a.size, a.q_row, a.k_row, a.v_row}) {
    if (extent % 8 != 0) return false;
  }
  for (const void* array : arrays) {
    if (!aligned_to(16, array)) return false;
  }
  return true;
}

void tensor_core_attention(Multiplier multiplier, const AttentionArguments& a, const void* q, const void* k,
                           const void* v, void* y, float* log_sums, cudaStream_t stream) {
  const auto compute = multiplier == Multiplier::kFourWarps ? warp_group_attention : forward<BlockPlans>;
  compute(a, q, k, v, y, log_sums, stream);
}

void tensor_core_attention_backward(Multiplier multiplier, const AttentionArguments& a, const void* q,
                                    const void* k, const void* v, const void* y, const float* log_sums,
                                    const void* dy, void* dq, void* dk, void* dv, float* row_sums,
                                    cudaStream_t stream) {
  const auto sum_rows = [&]<class S>(S) {
    const auto launch_rows = [&]<int kLanes>(std::integral_constant<int, kLanes>) {
      LOCKSTEP_LAUNCH((tensor_row_sums_kernel<S, kLanes>),
                      blocks_for(a.batch * a.heads * a.queries, kThreads / kLanes), kThreads, 0, stream, a,
                      static_cast<const S*>(y), static_cast<const S*>(dy), row_sums);
    };
    a.size <= 64 ? launch_rows(std::integral_constant<int, 8>{})
                 : launch_rows(std::integral_constant<int, 16>{});
  };
  a.dtype == DType::kBF16 ? sum_rows(BFloat16{}) : sum_rows(Float16{});
  const auto compute =
      multiplier == Multiplier::kFourWarps ? warp_group_attention_backward : backward<BlockPlans>;
  compute(a, q, k, v, log_sums, dy, dq, dk, dv, row_sums, stream);
}

}  // namespace lockstep
