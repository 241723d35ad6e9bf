// Attention in 16 bits with products on tensor cores (Dao 2023, "FlashAttention-2"), for heads of up to
// kLargestSize numbers, in eights; masks, shared heads of keys and dropout as everywhere.
//
// A block of threads keeps a tile of rows of one head, its own rows, in shared memory, and walks over tiles
// of the others', which arrive while the tile before them is worked on. A warp has rows of its own and shares
// nothing with other warps: what it has summed of scores is, rounded, its left operand of the next product.
// The two kernels of the backward pass compute scores twice, and add up what they own in the order of the
// others' tiles, whatever the grid.
#pragma once

#include <cmath>

#include "lockstep/kernels/cuda/attention_tiles.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep::tensor_attention {

// The block's head and the first of its own rows. Where queries see only what is before them, the tiles that
// take longest begin first.
struct Place {
  int64_t head;
  int first;
};
template <class P>
LOCKSTEP_DEVICE Place place_of_block(int tiles, bool last_first) {
  const int block = static_cast<int>(blockIdx.x), tile = block % tiles;
  return {block / tiles, (last_first ? tiles - 1 - tile : tile) * P::kOwn};
}

// Tiles of keys and values that a block of queries sees: one is worked on while the next one arrives.
template <class P, class S>
class KeyTiles {
 public:
  LOCKSTEP_DEVICE KeyTiles(const AttentionArguments& a, const int32_t* first_keys, const Place& place,
                           int group, const S* k, const S* v, S* shared)
      : keys_(key_rows(a, k, place.head / group, a.k_row)),
        values_(key_rows(a, v, place.head / group, a.v_row)),
        shared_(shared),
        size_(static_cast<int>(a.size)),
        begin_(first_key_of(first_keys, place.first) / P::kOthers * P::kOthers) {
    const int queries = positions(a.queries);
    const int last = place.first + P::kOwn < queries ? place.first + P::kOwn - 1 : queries - 1;
    count_ = (seen_by(a, first_keys, last).end - begin_ + P::kOthers - 1) / P::kOthers;
  }
  LOCKSTEP_DEVICE int count() const { return count_; }
  LOCKSTEP_DEVICE int first_key(int tile) const { return begin_ + tile * P::kOthers; }
  LOCKSTEP_DEVICE void begin_copy(int tile) const {
    begin_copy_of_rows<P, typename P::OtherRows>(keys_.from(first_key(tile)), size_, stage(tile));
    begin_copy_of_rows<P, typename P::OtherRows>(values_.from(first_key(tile)), size_,
                                                 stage(tile) + P::OtherRows::kElements);
  }
  // Begins to copy the next tile, and waits for this one.
  LOCKSTEP_DEVICE void await(int tile) const {
    if (tile + 1 < count_) begin_copy(tile + 1);
    end_copy_group();
    await_rows<P>();
  }
  LOCKSTEP_DEVICE const S* keys(int tile) const { return stage(tile); }
  LOCKSTEP_DEVICE const S* values(int tile) const { return stage(tile) + P::OtherRows::kElements; }

 private:
  LOCKSTEP_DEVICE S* stage(int tile) const { return shared_ + tile % 2 * 2 * P::OtherRows::kElements; }

  HeadRows<const S> keys_, values_;
  S* shared_;
  int size_, begin_, count_ = 0;
};

// factors[i] of a thread's number i of a tile of scores of a query, of the keys from `key` on, a multiple of
// 16: 8 j + tile_column() + e for number (j, e).
template <class P, class D>
LOCKSTEP_DEVICE void draw_keys(const D& drops, const AttentionArguments& a, int64_t query, int key,
                               float (&factors)[P::kScores][2]) {
  LOCKSTEP_UNROLL
  for (int part = 0; part < 2; ++part) {
    LOCKSTEP_UNROLL
    for (int e = 0; e < 2; ++e) {
      const PhiloxBlock words = drops.block(a, query, key + 8 * part + tile_column() + e);
      const bool second_half = P::kScores == 4 && key / D::kSpan % 4 != 0;
      LOCKSTEP_UNROLL
      for (int j = part; j < P::kScores; j += 2) {
        factors[j][e] = drops.factor(second_half ? words.r[j / 2 % 2 + 2] : words.r[j / 2]);
      }
    }
  }
}

// The softmax is carried along from tile to tile of keys (Milakov and Gimelshein 2018), in powers of two.
template <class S, class P, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    tensor_attention_kernel(AttentionArguments a, int group, int tiles, const S* q, const S* k, const S* v,
                            S* y, float* log_sums) {
  LOCKSTEP_DYNAMIC_SHARED(S, own);
  S* const others = own + P::OwnRows::kElements;
  const Place place = place_of_block<P>(tiles, a.causal);
  const int size = static_cast<int>(a.size);
  const float scale = static_cast<float>(a.scale) * kLog2E;
  const int32_t* const first_keys = first_keys_of(a, place.head / a.heads);
  const KeyTiles<P, S> tiles_of_keys(a, first_keys, place, group, k, v, others);
  begin_copy_of_rows<P, typename P::OwnRows>(query_rows(a, q, place.head, a.q_row).from(place.first), size,
                                             own);
  tiles_of_keys.begin_copy(0);
  end_copy_group();

  const Drops<float, kDropout> drops(a);
  const int first_row = place.first + warp_row() * P::kTiles + tile_row();  // of this thread
  const int64_t first_number = place.head * a.queries;                      // of the head's queries
  float maxima[P::kTiles][2], totals[P::kTiles][2] = {};
  SumTile sums[P::kTiles][P::kColumns] = {};
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) maxima[m][0] = maxima[m][1] = kHidden;
  for (int tile = 0; tile < tiles_of_keys.count(); ++tile) {
    tiles_of_keys.await(tile);
    const int key = tiles_of_keys.first_key(tile);
    SumTile scores[P::kTiles][P::kScores];
    multiply_rows<P>(own, tiles_of_keys.keys(tile), scores);
    if (!all_seen(a, first_keys, place.first, P::kOwn, key, P::kOthers)) {
      hide_keys<P>(a, first_keys, first_row, key, scores);
    }
    LOCKSTEP_UNROLL
    for (int m = 0; m < P::kTiles; ++m) {
      LOCKSTEP_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int query = first_row + 16 * m + 8 * half;
        float larger = maxima[m][half];
        LOCKSTEP_UNROLL
        for (int j = 0; j < P::kScores; ++j) {
          larger =
              Larger::combine(larger, Larger::combine(scores[m][j][2 * half], scores[m][j][2 * half + 1]));
        }
        larger = warp_reduce<Larger, 4>(larger);
        // A query that has seen no key yet has no maximum.
        const float reference = larger == kHidden ? 0.0f : larger * scale;
        // Two roundings: exactly 1 where the maximum stays what it was.
        const float factor = power_of_two(maxima[m][half] * scale - reference);
        maxima[m][half] = larger;
        float kept[P::kScores][2], total = 0;
        if constexpr (kDropout) draw_keys<P>(drops, a, first_number + query, key, kept);
        LOCKSTEP_UNROLL
        for (int j = 0; j < P::kScores; ++j) {
          LOCKSTEP_UNROLL
          for (int e = 0; e < 2; ++e) {
            float& weight = scores[m][j][2 * half + e];
            weight = power_of_two(std::fma(weight, scale, -reference));
            total += weight;
            if constexpr (kDropout) weight *= kept[j][e];
          }
        }
        totals[m][half] = std::fma(totals[m][half], factor, total);
        LOCKSTEP_UNROLL
        for (int j = 0; j < P::kColumns; ++j) {
          sums[m][j][2 * half] *= factor;
          sums[m][j][2 * half + 1] *= factor;
        }
      }
    }
    add_weighted_rows<P>(scores, tiles_of_keys.values(tile), sums);
    __syncthreads();  // before what lies here gives way to the tile after the next
  }
  float factors[P::kTiles][2];
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) {
    LOCKSTEP_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float total = warp_reduce<Plus, 4>(totals[m][half]);
      const int query = first_row + 16 * m + 8 * half;
      factors[m][half] = 1.0f / total;
      if (tile_column() == 0 && query < positions(a.queries)) {
        log_sums[first_number + query] =
            std::fma(maxima[m][half], static_cast<float>(a.scale), math::log(total));
      }
    }
  }
  store_own_rows<P>(sums, factors, query_rows(a, y, place.head, a.heads * a.size).from(place.first), size,
                    own);
}

// With p the softmax, s = scale q k', o = dy v' and m what dropout multiplies p by: ds = p (m o - row sums),
// dq = scale ds k.
template <class S, class P, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    tensor_attention_queries_kernel(AttentionArguments a, int group, int tiles, const S* q, const S* k,
                                    const S* v, const float* log_sums, const float* row_sums, const S* dy,
                                    S* dq) {
  LOCKSTEP_DYNAMIC_SHARED(S, own);
  S* const own_dy = own + P::OwnRows::kElements;
  S* const others = own_dy + P::OwnRows::kElements;
  const Place place = place_of_block<P>(tiles, a.causal);
  const int size = static_cast<int>(a.size);
  const float scale = static_cast<float>(a.scale) * kLog2E;
  const int32_t* const first_keys = first_keys_of(a, place.head / a.heads);
  const KeyTiles<P, S> tiles_of_keys(a, first_keys, place, group, k, v, others);
  begin_copy_of_rows<P, typename P::OwnRows>(query_rows(a, q, place.head, a.q_row).from(place.first), size,
                                             own);
  begin_copy_of_rows<P, typename P::OwnRows>(
      query_rows(a, dy, place.head, a.heads * a.size).from(place.first), size, own_dy);
  tiles_of_keys.begin_copy(0);
  end_copy_group();

  const Drops<float, kDropout> drops(a);
  const int first_row = place.first + warp_row() * P::kTiles + tile_row();  // of this thread
  const int64_t first_number = place.head * a.queries;                      // of the head's queries
  float logs[P::kTiles][2], products_sums[P::kTiles][2];
  SumTile sums[P::kTiles][P::kColumns] = {};
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) {
    LOCKSTEP_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int query = first_row + 16 * m + 8 * half;
      const bool exists = query < positions(a.queries);
      logs[m][half] = exists ? log_sums[first_number + query] * kLog2E : 0.0f;
      products_sums[m][half] = exists ? row_sums[first_number + query] : 0.0f;
    }
  }
  for (int tile = 0; tile < tiles_of_keys.count(); ++tile) {
    tiles_of_keys.await(tile);
    const int key = tiles_of_keys.first_key(tile);
    SumTile scores[P::kTiles][P::kScores], products[P::kTiles][P::kScores];
    multiply_rows<P>(own, tiles_of_keys.keys(tile), scores);
    multiply_rows<P>(own_dy, tiles_of_keys.values(tile), products);
    if (!all_seen(a, first_keys, place.first, P::kOwn, key, P::kOthers)) {
      hide_keys<P>(a, first_keys, first_row, key, scores);
    }
    LOCKSTEP_UNROLL
    for (int m = 0; m < P::kTiles; ++m) {
      LOCKSTEP_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int query = first_row + 16 * m + 8 * half;
        float kept[P::kScores][2];
        if constexpr (kDropout) draw_keys<P>(drops, a, first_number + query, key, kept);
        LOCKSTEP_UNROLL
        for (int j = 0; j < P::kScores; ++j) {
          LOCKSTEP_UNROLL
          for (int e = 0; e < 2; ++e) {
            float& score = scores[m][j][2 * half + e];
            float product = products[m][j][2 * half + e];
            if constexpr (kDropout) product *= kept[j][e];
            score = power_of_two(std::fma(score, scale, -logs[m][half])) * (product - products_sums[m][half]);
          }
        }
      }
    }
    add_weighted_rows<P>(scores, tiles_of_keys.keys(tile), sums);
    __syncthreads();  // before what lies here gives way to the tile after the next
  }
  float factors[P::kTiles][2];
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) factors[m][0] = factors[m][1] = static_cast<float>(a.scale);
  store_own_rows<P>(sums, factors, query_rows(a, dq, place.head, a.q_row).from(place.first), size, own);
}

// Tiles of queries that see keys of a block, over the query heads of its key head one after the other.
struct QueryTile {
  int member, query;  // number of the head among those
};
template <class P>
class QueryTiles {
 public:
  LOCKSTEP_DEVICE QueryTiles(const AttentionArguments& a, const int32_t* first_keys, int group, int first_key)
      : first_keys_(first_keys), queries_(positions(a.queries)), group_(group), end_(first_key + P::kOwn) {
    const int first = a.causal ? first_key - positions(a.keys - a.queries) : 0;
    first_ = first > 0 ? first / P::kOthers * P::kOthers : 0;
    at_ = {sees(first_) ? 0 : group_, first_};
  }
  LOCKSTEP_DEVICE bool end() const { return at_.member == group_; }
  LOCKSTEP_DEVICE const QueryTile& operator*() const { return at_; }
  LOCKSTEP_DEVICE void next() {
    at_.query += P::kOthers;
    if (!sees(at_.query)) at_ = {at_.member + 1, first_};
  }

 private:
  // Behind the last query there are none; nor are there behind one that begins past the block's keys.
  LOCKSTEP_DEVICE bool sees(int query) const {
    return query < queries_ && first_key_of(first_keys_, query) < end_;
  }

  const int32_t* first_keys_;
  int queries_, group_, end_, first_ = 0;
  QueryTile at_ = {};
};

// dv = (m p)' dy and dk = scale ds' q.
template <class S, class P, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    tensor_attention_keys_kernel(AttentionArguments a, int group, int tiles, const S* q, const S* k,
                                 const S* v, const float* log_sums, const float* row_sums, const S* dy, S* dk,
                                 S* dv) {
  LOCKSTEP_DYNAMIC_SHARED(S, own);
  S* const own_values = own + P::OwnRows::kElements;
  S* const others = own_values + P::OwnRows::kElements;
  const Place place = place_of_block<P>(tiles, false);
  const int size = static_cast<int>(a.size);
  const float scale = static_cast<float>(a.scale) * kLog2E;
  const int32_t* const first_keys = first_keys_of(a, place.head / a.kv_heads);
  QueryTiles<P> walk(a, first_keys, group, place.first);
  const int64_t first_head = place.head * group;
  const HeadRows<const S> first_queries = query_rows(a, q, first_head, a.q_row);
  const HeadRows<const S> first_gradients = query_rows(a, dy, first_head, a.heads * a.size);
  const auto begin_copy_of_tile = [&](const QueryTile& tile, int stage) {
    S* const to = others + stage * 2 * P::OtherRows::kElements;
    const int member = tile.member * size;
    begin_copy_of_rows<P, typename P::OtherRows>(first_queries.from(tile.query).of_head_at(member), size, to);
    begin_copy_of_rows<P, typename P::OtherRows>(first_gradients.from(tile.query).of_head_at(member), size,
                                                 to + P::OtherRows::kElements);
  };
  begin_copy_of_rows<P, typename P::OwnRows>(key_rows(a, k, place.head, a.k_row).from(place.first), size,
                                             own);
  begin_copy_of_rows<P, typename P::OwnRows>(key_rows(a, v, place.head, a.v_row).from(place.first), size,
                                             own_values);
  if (!walk.end()) begin_copy_of_tile(*walk, 0);
  end_copy_group();

  const Drops<float, kDropout> drops(a);
  const int first_row = place.first + warp_row() * P::kTiles + tile_row();  // of this thread
  SumTile dk_sums[P::kTiles][P::kColumns] = {}, dv_sums[P::kTiles][P::kColumns] = {};
  for (int stage = 0; !walk.end(); stage = 1 - stage) {
    const QueryTile tile = *walk;
    walk.next();
    if (!walk.end()) begin_copy_of_tile(*walk, 1 - stage);
    end_copy_group();
    await_rows<P>();
    const int64_t first_number = (first_head + tile.member) * a.queries;  // of the head's queries
    const S* const queries = others + stage * 2 * P::OtherRows::kElements;
    const S* const gradients = queries + P::OtherRows::kElements;
    SumTile weights[P::kTiles][P::kScores], products[P::kTiles][P::kScores];
    multiply_rows<P>(own, queries, weights);
    multiply_rows<P>(own_values, gradients, products);
    if (!all_seen(a, first_keys, tile.query, P::kOthers, place.first, P::kOwn)) {
      hide_from_queries<P>(a, first_keys, tile.query, first_row, weights);
    }
    LOCKSTEP_UNROLL
    for (int j = 0; j < P::kScores; ++j) {
      LOCKSTEP_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int query = tile.query + 8 * j + tile_column() + e;
        const bool exists = query < positions(a.queries);
        const float log_sum = exists ? log_sums[first_number + query] * kLog2E : 0.0f;
        const float products_sum = exists ? row_sums[first_number + query] : 0.0f;
        LOCKSTEP_UNROLL
        for (int half = 0; half < 2; ++half) {
          [[maybe_unused]] PhiloxBlock words = {};
          if constexpr (kDropout) words = drops.block(a, first_number + query, first_row + 8 * half);
          LOCKSTEP_UNROLL
          for (int m = 0; m < P::kTiles; ++m) {
            float& weight = weights[m][j][2 * half + e];
            float& product = products[m][j][2 * half + e];
            const float p = power_of_two(std::fma(weight, scale, -log_sum));
            if constexpr (kDropout) {
              const int word = (first_row / decltype(drops)::kSpan + m) % 4;
              const float kept = drops.factor(word == 0   ? words.r[0]
                                              : word == 1 ? words.r[1]
                                              : word == 2 ? words.r[2]
                                                          : words.r[3]);
              weight = p * kept;
              product = p * (product * kept - products_sum);
            } else {
              weight = p;
              product = p * (product - products_sum);
            }
          }
        }
      }
    }
    add_weighted_rows<P>(weights, gradients, dv_sums);
    add_weighted_rows<P>(products, queries, dk_sums);
    __syncthreads();  // before what lies here gives way to the tile after the next
  }
  float factors[P::kTiles][2];
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) factors[m][0] = factors[m][1] = 1.0f;
  store_own_rows<P>(dv_sums, factors, key_rows(a, dv, place.head, a.v_row).from(place.first), size,
                    own_values);
  LOCKSTEP_UNROLL
  for (int m = 0; m < P::kTiles; ++m) factors[m][0] = factors[m][1] = static_cast<float>(a.scale);
  store_own_rows<P>(dk_sums, factors, key_rows(a, dk, place.head, a.k_row).from(place.first), size, own);
}

// Calls function(S{}, integral_constant of the width, bool_constant of whether weights are dropped).
template <class F>
void dispatch_widths(const AttentionArguments& a, const F& function) {
  const auto of_type = [&](auto zero) {
    const auto of_width = [&](auto width) {
      a.dropout > 0.0 ? function(zero, width, std::true_type{}) : function(zero, width, std::false_type{});
    };
    if (a.size <= 64) return of_width(std::integral_constant<int, 64>{});
    if (a.size <= 96) return of_width(std::integral_constant<int, 96>{});
    return of_width(std::integral_constant<int, 128>{});
  };
  a.dtype == DType::kBF16 ? of_type(BFloat16{}) : of_type(Float16{});
}

// Allows a kernel more shared memory than it may have unasked.
template <class... Parameters>
void allow_shared_bytes(void (*kernel)(Parameters...), size_t bytes) {
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
      "shared memory of attention");
}

// Plans: the block plans Forward, Queries and Keys of a width, and whether weights are dropped.
template <class Plans>
void forward(const AttentionArguments& a, const void* q, const void* k, const void* v, void* y,
             float* log_sums, cudaStream_t stream) {
  dispatch_widths(a, [&]<class S, int kWidth, bool kDropout>(S, std::integral_constant<int, kWidth>,
                                                             std::bool_constant<kDropout>) {
    using P = typename Plans::template Forward<kWidth, kDropout>;
    const auto tiles = static_cast<int>(tiles_of(a.queries, P::kOwn));
    allow_shared_bytes(tensor_attention_kernel<S, P, kDropout>, shared_bytes<P>(1));
    LOCKSTEP_LAUNCH((tensor_attention_kernel<S, P, kDropout>), blocks_for(tiles * a.batch * a.heads, 1),
                    kThreads, shared_bytes<P>(1), stream, a, static_cast<int>(a.group()), tiles,
                    static_cast<const S*>(q), static_cast<const S*>(k), static_cast<const S*>(v),
                    static_cast<S*>(y), log_sums);
  });
}

// row_sums (batch, heads, queries): sums of dy y over a head's numbers.
template <class Plans>
void backward(const AttentionArguments& a, const void* q, const void* k, const void* v, const float* log_sums,
              const void* dy, void* dq, void* dk, void* dv, const float* row_sums, cudaStream_t stream) {
  dispatch_widths(a, [&]<class S, int kWidth, bool kDropout>(S, std::integral_constant<int, kWidth>,
                                                             std::bool_constant<kDropout>) {
    const S *const queries = static_cast<const S*>(q), *const keys = static_cast<const S*>(k);
    const S *const values = static_cast<const S*>(v), *const gradient = static_cast<const S*>(dy);
    using Keys = typename Plans::template Keys<kWidth, kDropout>;
    using Queries = typename Plans::template Queries<kWidth, kDropout>;
    const auto key_tiles = static_cast<int>(tiles_of(a.keys, Keys::kOwn));
    const auto query_tiles = static_cast<int>(tiles_of(a.queries, Queries::kOwn));
    allow_shared_bytes(tensor_attention_keys_kernel<S, Keys, kDropout>, shared_bytes<Keys>(2));
    LOCKSTEP_LAUNCH((tensor_attention_keys_kernel<S, Keys, kDropout>),
                    blocks_for(key_tiles * a.batch * a.kv_heads, 1), kThreads, shared_bytes<Keys>(2), stream,
                    a, static_cast<int>(a.group()), key_tiles, queries, keys, values, log_sums, row_sums,
                    gradient, static_cast<S*>(dk), static_cast<S*>(dv));
    allow_shared_bytes(tensor_attention_queries_kernel<S, Queries, kDropout>, shared_bytes<Queries>(2));
    LOCKSTEP_LAUNCH((tensor_attention_queries_kernel<S, Queries, kDropout>),
                    blocks_for(query_tiles * a.batch * a.heads, 1), kThreads, shared_bytes<Queries>(2),
                    stream, a, static_cast<int>(a.group()), query_tiles, queries, keys, values, log_sums,
                    row_sums, gradient, static_cast<S*>(dq));
  });
}

}  // namespace lockstep::tensor_attention
