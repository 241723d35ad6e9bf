// What the ways to compute attention share.
#pragma once

#include <initializer_list>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/cuda/dialect.h"

namespace lockstep {

// Where the rows of head `index` (counted through the batch) of an array of so many heads begin, whose
// batches are `positions` rows long.
LOCKSTEP_DEVICE int64_t head_begin(const AttentionArguments& a, int64_t heads, int64_t index,
                                   int64_t positions, int64_t row) {
  return index / heads * positions * row + index % heads * a.size;
}

// First keys of the queries of a batch; null: all begin at key 0.
LOCKSTEP_DEVICE const int32_t* first_keys_of(const AttentionArguments& a, int64_t batch) {
  return a.first_keys == nullptr ? nullptr : a.first_keys + batch * a.first_keys_batch;
}
LOCKSTEP_DEVICE int first_key_of(const int32_t* first_keys, int64_t query) {
  return first_keys == nullptr ? 0 : first_keys[query];
}

// Tiles that rows are cut into.
inline int64_t tiles_of(int64_t rows, int64_t tile) {
  return (rows + tile - 1) / tile;
}

// What dropout multiplies weights by; kDropout: whether it does anything.
template <class T, bool kDropout>
class Drops {
 public:
  static constexpr int kSpan = 16;  // keys between two words of a block of random bits

  LOCKSTEP_DEVICE explicit Drops(const AttentionArguments& a)
      : step_(kDropout && a.draws.step_at != nullptr ? *a.draws.step_at : a.draws.step),
        threshold_(static_cast<float>(a.dropout)),
        kept_(static_cast<T>(1.0 / (1.0 - a.dropout))) {}

  // The block that has the word of key `key` for query number `query` of all heads' and batches', as word
  // number key / kSpan % 4.
  LOCKSTEP_DEVICE PhiloxBlock block(const AttentionArguments& a, int64_t query, int64_t key) const {
    const int64_t number = a.first_draw(query) + key / (4 * kSpan) * kSpan + key % kSpan;
    return philox(a.draws.key, {static_cast<uint32_t>(number), a.draws.op_ordinal, step_, a.draws.stream});
  }
  LOCKSTEP_DEVICE T factor(uint32_t word) const { return uniform_float(word) < threshold_ ? T(0) : kept_; }

 private:
  uint32_t step_;
  float threshold_;
  T kept_;
};

// attention_on_tensor_cores.cu: in 16 bits, with weights rounded to 16 bits before they are multiplied.
//
// Who multiplies a tile: each warp its own rows (tensor_cores.h), or four together (warp_groups.h).
enum class Multiplier : uint8_t { kOneWarp, kFourWarps };
// Whether a call is one for it: types, extents, and arrays and rows that begin at multiples of 16 bytes.
bool is_for_tensor_cores(const AttentionArguments& a, std::initializer_list<const void*> arrays);
// As CudaBackend's, a.kv_heads given; row_sums: working memory (batch, heads, queries).
void tensor_core_attention(Multiplier multiplier, const AttentionArguments& a, const void* q, const void* k,
                           const void* v, void* y, float* log_sums, cudaStream_t stream);
void tensor_core_attention_backward(Multiplier multiplier, const AttentionArguments& a, const void* q,
                                    const void* k, const void* v, const void* y, const float* log_sums,
                                    const void* dy, void* dq, void* dk, void* dv, float* row_sums,
                                    cudaStream_t stream);

// with_warp_groups/, without_warp_groups/: the part of these that warp groups compute, on GPUs of the compute
// capability given. Error (kInternal) in a build without.
bool warp_groups_multiply(int major, int minor);
void warp_group_attention(const AttentionArguments& a, const void* q, const void* k, const void* v, void* y,
                          float* log_sums, cudaStream_t stream);
void warp_group_attention_backward(const AttentionArguments& a, const void* q, const void* k, const void* v,
                                   const float* log_sums, const void* dy, void* dq, void* dk, void* dv,
                                   const float* row_sums, cudaStream_t stream);

}  // namespace lockstep
