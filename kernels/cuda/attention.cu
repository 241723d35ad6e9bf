// Scaled dot-product attention of heads, tile by tile (Dao et al. 2022, "FlashAttention"; Dao 2023,
// "FlashAttention-2"), for heads of any size up to kLargestSize.
//
// A block of threads keeps a tile of rows of one head, its own rows, and walks over tiles of the others:
// queries over the keys for y and dq, keys over the queries for dk and dv. Scores of a tile are computed in
// registers and, as weights of the others' rows, handed on in shared memory. Every sum has the order that the
// extents give it, whatever the grid.
#include <algorithm>
#include <cmath>

#include "lockstep/kernels/cuda/attention.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/cudnn.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep {

namespace {

constexpr int kSide = 16;  // of the square of threads
constexpr int kThreads =
    kSide * kSide;          // thread (y, x): own rows y + kSide r, others' rows and columns x + kSide c
constexpr int kDepth = 16;  // numbers of a row that lie in shared memory at a time for scores
constexpr int64_t kLargestSize = 256;

// The tiles of heads of up to kSide * kColumns numbers.
template <class T, int kColumns_>
struct TilePlan {
  static constexpr int kColumns = kColumns_;  // of each own row that a thread sums
  static constexpr bool kWide = sizeof(T) * kColumns > 32;
  static constexpr int kRows = kWide ? 2 : 4;                           // own rows of a thread
  static constexpr int kOthers = kWide || sizeof(T) == 8 ? 2 : 4;       // and others', of its scores
  static constexpr int kOwn = kSide * kRows, kOther = kSide * kOthers;  // of a block
  static constexpr int kWidth = kSide * kColumns;
  static constexpr int kChunk =
      kColumns == 16 ? 8 : 16;  // others' rows that lie in shared memory at a time to be summed
  // Blocks that a multiprocessor has room for, two where 128 registers a thread are enough: one computes
  // while the other waits for memory or at a barrier.
  static constexpr int kForwardBlocks = sizeof(T) == 8 && !kWide ? 1 : 2;
  static constexpr int kBackwardBlocks = sizeof(T) == 4 && kColumns != 8 ? 2 : 1;
  static constexpr int kStride = kDepth + 1;  // odd: neighbours' rows are in different banks
  static constexpr int kBuffer = std::max((kOwn + kOther) * kStride, kChunk* kWidth);
};

LOCKSTEP_DEVICE int own_thread() {
  return static_cast<int>(threadIdx.x) / kSide;
}
LOCKSTEP_DEVICE int other_thread() {
  return static_cast<int>(threadIdx.x) % kSide;
}

// `count` rows of one head, `row` elements apart; those behind them count as zeros.
template <class S>
struct TileRows {
  const S* first;
  int64_t row;
  int64_t count;

  LOCKSTEP_DEVICE Accumulation<S> at(int i, int column, int size) const {
    return i < count && column < size ? widen(first[i * row + column]) : Accumulation<S>(0);
  }
};

// Rows from `position` on of one query head's array, and of one key head's.
template <class S>
LOCKSTEP_DEVICE TileRows<S> query_rows(const AttentionArguments& a, const S* array, int64_t head, int64_t row,
                                       int64_t position) {
  return {array + head_begin(a, a.heads, head, a.queries, row) + position * row, row, a.queries - position};
}
template <class S>
LOCKSTEP_DEVICE TileRows<S> key_rows(const AttentionArguments& a, const S* array, int64_t head, int64_t row,
                                     int64_t position) {
  return {array + head_begin(a, a.kv_heads, head, a.keys, row) + position * row, row, a.keys - position};
}

// The block's head and the first of its own rows.
struct Place {
  int64_t head, first;
};
template <class Plan>
LOCKSTEP_DEVICE Place place_of_block(int64_t tiles) {
  const int64_t block = static_cast<int64_t>(blockIdx.x);
  return {block / tiles, block % tiles * Plan::kOwn};
}

// Which keys of a tile the queries of a tile see, both counted from the first of theirs.
struct Sight {
  int queries, keys;    // that there are
  int diagonal;         // query i sees the keys up to i + diagonal
  int first_key;        // of the tile
  const int32_t* from;  // and from from[i] - first_key on; null: all of those

  LOCKSTEP_DEVICE Sight(const AttentionArguments& a, const int32_t* first_keys, int64_t first_query,
                        int64_t first_key_)
      : queries(bounded(a.queries - first_query)),
        keys(bounded(a.keys - first_key_)),
        diagonal(a.causal ? bounded(first_query + (a.keys - a.queries) - first_key_) : kFar),
        first_key(static_cast<int>(first_key_)),
        from(first_keys == nullptr ? nullptr : first_keys + first_query) {}
  LOCKSTEP_DEVICE bool operator()(int query, int key) const {
    return query < queries && key < keys && key <= query + diagonal &&
           (from == nullptr || from[query] <= first_key + key);
  }

 private:
  static constexpr int kFar = 1 << 20;  // beyond any tile
  LOCKSTEP_DEVICE static int bounded(int64_t x) {
    return static_cast<int>(x < -kFar ? -kFar : x > kFar ? kFar : x);
  }
};

// sums[r][c] += own row r times others' row c.
template <class Plan, class S, class T>
LOCKSTEP_DEVICE void add_products(const TileRows<S>& own, const TileRows<S>& others, int size, T* buffer,
                                  T (&sums)[Plan::kRows][Plan::kOthers]) {
  T* const own_part = buffer;
  T* const other_part = buffer + Plan::kOwn * Plan::kStride;
  for (int begin = 0; begin < size; begin += kDepth) {
    __syncthreads();  // the buffer has been read
    LOCKSTEP_UNROLL_BY(2)
    for (int i = static_cast<int>(threadIdx.x); i < Plan::kOwn * kDepth; i += kThreads) {
      own_part[i / kDepth * Plan::kStride + i % kDepth] = own.at(i / kDepth, begin + i % kDepth, size);
    }
    LOCKSTEP_UNROLL_BY(2)
    for (int i = static_cast<int>(threadIdx.x); i < Plan::kOther * kDepth; i += kThreads) {
      other_part[i / kDepth * Plan::kStride + i % kDepth] = others.at(i / kDepth, begin + i % kDepth, size);
    }
    __syncthreads();
    LOCKSTEP_UNROLL_BY(4)
    for (int p = 0; p < kDepth; ++p) {
      T left[Plan::kRows], right[Plan::kOthers];
      LOCKSTEP_UNROLL
      for (int r = 0; r < Plan::kRows; ++r)
        left[r] = own_part[(own_thread() + kSide * r) * Plan::kStride + p];
      LOCKSTEP_UNROLL
      for (int c = 0; c < Plan::kOthers; ++c)
        right[c] = other_part[(other_thread() + kSide * c) * Plan::kStride + p];
      LOCKSTEP_UNROLL
      for (int r = 0; r < Plan::kRows; ++r) {
        LOCKSTEP_UNROLL
        for (int c = 0; c < Plan::kOthers; ++c) sums[r][c] = std::fma(left[r], right[c], sums[r][c]);
      }
    }
  }
}

// The weight that own row r gives to others' row c.
template <class Plan, class T>
LOCKSTEP_DEVICE T& weight_at(T* weights, int r, int c) {
  return weights[(own_thread() + kSide * r) * Plan::kOther + other_thread() + kSide * c];
}

// sums[r][c] += own row r's weights times column c of the others' rows. The weights may have been written
// just before, by any thread; they may be written again after the next barrier.
template <class Plan, class S, class T>
LOCKSTEP_DEVICE void add_weighted(const T* weights, const TileRows<S>& others, int size, T* buffer,
                                  T (&sums)[Plan::kRows][Plan::kColumns]) {
  const int count = static_cast<int>(others.count < Plan::kOther ? others.count : Plan::kOther);
  for (int begin = 0; begin < count; begin += Plan::kChunk) {
    __syncthreads();  // the buffer has been read, the weights are written
    LOCKSTEP_UNROLL_BY(2)
    for (int i = static_cast<int>(threadIdx.x); i < Plan::kChunk * Plan::kWidth; i += kThreads) {
      buffer[i] = others.at(begin + i / Plan::kWidth, i % Plan::kWidth, size);
    }
    __syncthreads();
    LOCKSTEP_UNROLL_BY(2)
    for (int p = 0; p < Plan::kChunk; ++p) {
      T left[Plan::kRows];
      LOCKSTEP_UNROLL
      for (int r = 0; r < Plan::kRows; ++r)
        left[r] = weights[(own_thread() + kSide * r) * Plan::kOther + begin + p];
      LOCKSTEP_UNROLL
      for (int c = 0; c < Plan::kColumns; ++c) {
        const T right = buffer[p * Plan::kWidth + other_thread() + kSide * c];
        LOCKSTEP_UNROLL
        for (int r = 0; r < Plan::kRows; ++r) sums[r][c] = std::fma(left[r], right, sums[r][c]);
      }
    }
  }
}

// Own row r of an array becomes sums[r] * factors[r], for the rows that there are.
template <class Plan, class S, class T>
LOCKSTEP_DEVICE void store_rows(S* first, int64_t row, int64_t count, int size,
                                const T (&factors)[Plan::kRows],
                                const T (&sums)[Plan::kRows][Plan::kColumns]) {
  LOCKSTEP_UNROLL
  for (int r = 0; r < Plan::kRows; ++r) {
    const int i = own_thread() + kSide * r;
    if (i >= count) continue;
    LOCKSTEP_UNROLL
    for (int c = 0; c < Plan::kColumns; ++c) {
      const int column = other_thread() + kSide * c;
      if (column < size) first[i * row + column] = rounded<S>(sums[r][c] * factors[r]);
    }
  }
}

// factors[i] of key `key` + kSide i by query number `query` of all heads' and batches', for keys of a tile.
template <int kCount, class T, bool kDropout>
LOCKSTEP_DEVICE void draw(const Drops<T, kDropout>& drops, const AttentionArguments& a, int64_t query,
                          int64_t key, T (&factors)[kCount]) {
  static_assert((kCount == 2 || kCount == 4) && kSide == Drops<T, kDropout>::kSpan);
  LOCKSTEP_UNROLL
  for (int i = 0; i < kCount; ++i) factors[i] = 1;
  if constexpr (kDropout) {
    const PhiloxBlock words = drops.block(a, query, key);
    const bool second_half = key / kSide % 4 >= kCount;
    LOCKSTEP_UNROLL
    for (int i = 0; i < kCount; ++i) {
      // Both by a constant index: they stay in registers.
      factors[i] = drops.factor(second_half ? words.r[i + 4 - kCount] : words.r[i]);
    }
  }
}

// The softmax is carried along from tile to tile of keys (Milakov and Gimelshein 2018).
template <class S, class Plan, bool kDropout>
__global__ void __launch_bounds__(kThreads, Plan::kForwardBlocks)
    attention_kernel(AttentionArguments a, int64_t group, int64_t tiles, const S* q, const S* k, const S* v,
                     S* y, Accumulation<S>* log_sums) {
  using T = Accumulation<S>;
  LOCKSTEP_SHARED(T, buffer, [Plan::kBuffer]);
  LOCKSTEP_SHARED(T, weights, [Plan::kOwn * Plan::kOther]);
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  const Place place = place_of_block<Plan>(tiles);
  const int size = static_cast<int>(a.size);
  const T scale = static_cast<T>(a.scale);
  const int64_t key_head = place.head / group;
  const int32_t* const first_keys = first_keys_of(a, place.head / a.heads);
  const TileRows<S> own = query_rows(a, q, place.head, a.q_row, place.first);
  const Drops<T, kDropout> drops(a);
  T maxima[Plan::kRows], totals[Plan::kRows], sums[Plan::kRows][Plan::kColumns] = {};
  LOCKSTEP_UNROLL
  for (int r = 0; r < Plan::kRows; ++r) {
    maxima[r] = kLowest;
    totals[r] = 0;
  }
  const int begin = first_key_of(first_keys, place.first) / Plan::kOther * Plan::kOther;
  for (int64_t key = begin; key < a.keys; key += Plan::kOther) {
    const Sight sees(a, first_keys, place.first, key);
    const int last = (sees.queries < Plan::kOwn ? sees.queries : Plan::kOwn) - 1;
    if (last + sees.diagonal < 0) break;
    T scores[Plan::kRows][Plan::kOthers] = {};
    add_products<Plan>(own, key_rows(a, k, key_head, a.k_row, key), size, buffer, scores);
    LOCKSTEP_UNROLL
    for (int r = 0; r < Plan::kRows; ++r) {
      // Rows behind the last query are kept finite: they see what it does.
      const int own_row = own_thread() + kSide * r, query = own_row < last ? own_row : last;
      T larger = maxima[r];
      LOCKSTEP_UNROLL
      for (int c = 0; c < Plan::kOthers; ++c) {
        scores[r][c] = sees(query, other_thread() + kSide * c) ? scores[r][c] * scale : kLowest;
        larger = Larger::combine(larger, scores[r][c]);
      }
      larger = warp_reduce<Larger, kSide>(larger);
      // A query that has seen no key yet has no maximum.
      const T reference = larger == kLowest ? T(0) : larger;
      const T factor = math::exp_normal(maxima[r] - reference);
      maxima[r] = larger;
      T total = 0, kept[Plan::kOthers];
      draw(drops, a, place.head * a.queries + place.first + own_row, key + other_thread(), kept);
      LOCKSTEP_UNROLL
      for (int c = 0; c < Plan::kOthers; ++c) {
        const T exponential = math::exp_normal(scores[r][c] - reference);
        total += exponential;
        weight_at<Plan>(weights, r, c) = kDropout ? exponential * kept[c] : exponential;
      }
      totals[r] = totals[r] * factor + warp_reduce<Plus, kSide>(total);
      LOCKSTEP_UNROLL
      for (int c = 0; c < Plan::kColumns; ++c) sums[r][c] *= factor;
    }
    add_weighted<Plan>(weights, key_rows(a, v, key_head, a.v_row, key), size, buffer, sums);
  }
  T factors[Plan::kRows];
  LOCKSTEP_UNROLL
  for (int r = 0; r < Plan::kRows; ++r) {
    factors[r] = T(1) / totals[r];
    const int64_t query = place.first + own_thread() + kSide * r;
    if (other_thread() == 0 && query < a.queries) {
      log_sums[place.head * a.queries + query] = maxima[r] + math::log(totals[r]);
    }
  }
  const int64_t row = a.heads * a.size;
  store_rows<Plan>(y + head_begin(a, a.heads, place.head, a.queries, row) + place.first * row, row, own.count,
                   size, factors, sums);
}

// row_sums (batch, heads, queries) = sum of dy y over a head's numbers, a warp a query.
template <class S>
__global__ void __launch_bounds__(kThreads)
    row_sums_kernel(AttentionArguments a, const S* y, const S* dy, Accumulation<S>* row_sums) {
  using T = Accumulation<S>;
  const int64_t query = global_thread() / kWarp;
  if (query >= a.batch * a.heads * a.queries) return;
  const int64_t row = a.heads * a.size;
  const int64_t begin = head_begin(a, a.heads, query / a.queries, a.queries, row) + query % a.queries * row;
  T sum = 0;
  for (int64_t i = static_cast<int64_t>(threadIdx.x) % kWarp; i < a.size; i += kWarp) {
    sum = std::fma(widen(dy[begin + i]), widen(y[begin + i]), sum);
  }
  sum = warp_reduce<Plus>(sum);
  if (threadIdx.x % kWarp == 0) row_sums[query] = sum;
}

// With p the softmax, s = scale q k', o = dy v' and m what dropout multiplies p by: ds = p (m o - row sums),
// dq = scale ds k.
template <class S, class Plan, bool kDropout>
__global__ void __launch_bounds__(kThreads, Plan::kBackwardBlocks)
    attention_queries_kernel(AttentionArguments a, int64_t group, int64_t tiles, const S* q, const S* k,
                             const S* v, const Accumulation<S>* log_sums, const Accumulation<S>* row_sums,
                             const S* dy, S* dq) {
  using T = Accumulation<S>;
  LOCKSTEP_SHARED(T, buffer, [Plan::kBuffer]);
  LOCKSTEP_SHARED(T, weights, [Plan::kOwn * Plan::kOther]);
  const Place place = place_of_block<Plan>(tiles);
  const int size = static_cast<int>(a.size);
  const T scale = static_cast<T>(a.scale);
  const int64_t key_head = place.head / group;
  const int32_t* const first_keys = first_keys_of(a, place.head / a.heads);
  const TileRows<S> own = query_rows(a, q, place.head, a.q_row, place.first);
  const TileRows<S> own_dy = query_rows(a, dy, place.head, a.heads * a.size, place.first);
  const Drops<T, kDropout> drops(a);
  T logs[Plan::kRows], products_sums[Plan::kRows], sums[Plan::kRows][Plan::kColumns] = {};
  LOCKSTEP_UNROLL
  for (int r = 0; r < Plan::kRows; ++r) {
    const int64_t query = place.first + own_thread() + kSide * r, at = place.head * a.queries + query;
    logs[r] = query < a.queries ? log_sums[at] : T(0);
    products_sums[r] = query < a.queries ? row_sums[at] : T(0);
  }
  const int begin = first_key_of(first_keys, place.first) / Plan::kOther * Plan::kOther;
  for (int64_t key = begin; key < a.keys; key += Plan::kOther) {
    const Sight sees(a, first_keys, place.first, key);
    const int last = (sees.queries < Plan::kOwn ? sees.queries : Plan::kOwn) - 1;
    if (last + sees.diagonal < 0) break;
    const TileRows<S> keys = key_rows(a, k, key_head, a.k_row, key);
    T scores[Plan::kRows][Plan::kOthers] = {}, products[Plan::kRows][Plan::kOthers] = {};
    add_products<Plan>(own, keys, size, buffer, scores);
    add_products<Plan>(own_dy, key_rows(a, v, key_head, a.v_row, key), size, buffer, products);
    LOCKSTEP_UNROLL
    for (int r = 0; r < Plan::kRows; ++r) {
      T kept[Plan::kOthers];
      draw(drops, a, place.head * a.queries + place.first + own_thread() + kSide * r, key + other_thread(),
           kept);
      LOCKSTEP_UNROLL
      for (int c = 0; c < Plan::kOthers; ++c) {
        const T product = kDropout ? products[r][c] * kept[c] : products[r][c];
        weight_at<Plan>(weights, r, c) =
            sees(own_thread() + kSide * r, other_thread() + kSide * c)
                ? math::exp(scores[r][c] * scale - logs[r]) * (product - products_sums[r])
                : T(0);
      }
    }
    add_weighted<Plan>(weights, keys, size, buffer, sums);
  }
  T factors[Plan::kRows];
  LOCKSTEP_UNROLL
  for (int r = 0; r < Plan::kRows; ++r) factors[r] = scale;
  store_rows<Plan>(dq + head_begin(a, a.heads, place.head, a.queries, a.q_row) + place.first * a.q_row,
                   a.q_row, own.count, size, factors, sums);
}

// dv = (m p)' dy and dk = scale ds' q, over the query heads of the block's key head one after the other.
template <class S, class Plan, bool kDropout>
__global__ void __launch_bounds__(kThreads, Plan::kBackwardBlocks)
    attention_keys_kernel(AttentionArguments a, int64_t group, int64_t tiles, const S* q, const S* k,
                          const S* v, const Accumulation<S>* log_sums, const Accumulation<S>* row_sums,
                          const S* dy, S* dk, S* dv) {
  using T = Accumulation<S>;
  LOCKSTEP_SHARED(T, buffer, [Plan::kBuffer]);
  LOCKSTEP_SHARED(T, weights, [Plan::kOwn * Plan::kOther]);
  const Place place = place_of_block<Plan>(tiles);
  const int size = static_cast<int>(a.size);
  const T scale = static_cast<T>(a.scale);
  const int32_t* const first_keys = first_keys_of(a, place.head / a.kv_heads);
  const TileRows<S> own = key_rows(a, k, place.head, a.k_row, place.first);
  const TileRows<S> own_values = key_rows(a, v, place.head, a.v_row, place.first);
  const Drops<T, kDropout> drops(a);
  T dk_sums[Plan::kRows][Plan::kColumns] = {}, dv_sums[Plan::kRows][Plan::kColumns] = {};
  // The first query that sees a key of this tile.
  int64_t first_query = a.causal ? place.first - (a.keys - a.queries) : 0;
  first_query = first_query > 0 ? first_query / Plan::kOther * Plan::kOther : 0;
  for (int64_t head = place.head * group, query = first_query; head < (place.head + 1) * group;
       query += Plan::kOther) {
    // Behind the last query comes the first one of the next head; so it does behind those that begin past the
    // block's keys.
    if (query >= a.queries || first_key_of(first_keys, query) >= place.first + Plan::kOwn) {
      ++head;
      query = first_query - Plan::kOther;
      continue;
    }
    const Sight sees(a, first_keys, query, place.first);
    const TileRows<S> queries = query_rows(a, q, head, a.q_row, query);
    const TileRows<S> gradients = query_rows(a, dy, head, a.heads * a.size, query);
    T scores[Plan::kRows][Plan::kOthers] = {}, products[Plan::kRows][Plan::kOthers] = {};
    add_products<Plan>(own, queries, size, buffer, scores);
    add_products<Plan>(own_values, gradients, size, buffer, products);
    LOCKSTEP_UNROLL
    for (int c = 0; c < Plan::kOthers; ++c) {
      const int64_t seeing = query + other_thread() + kSide * c, at = head * a.queries + seeing;
      const T log_sum = seeing < a.queries ? log_sums[at] : T(0);
      const T products_sum = seeing < a.queries ? row_sums[at] : T(0);
      T kept[Plan::kRows];
      draw(drops, a, at, place.first + own_thread(), kept);
      LOCKSTEP_UNROLL
      for (int r = 0; r < Plan::kRows; ++r) {
        const bool visible = sees(other_thread() + kSide * c, own_thread() + kSide * r);
        const T p = visible ? math::exp(scores[r][c] * scale - log_sum) : T(0);
        const T product = kDropout ? products[r][c] * kept[r] : products[r][c];
        weight_at<Plan>(weights, r, c) = kDropout ? p * kept[r] : p;
        scores[r][c] = visible ? p * (product - products_sum) : T(0);
      }
    }
    add_weighted<Plan>(weights, gradients, size, buffer, dv_sums);
    __syncthreads();
    LOCKSTEP_UNROLL
    for (int r = 0; r < Plan::kRows; ++r) {
      LOCKSTEP_UNROLL
      for (int c = 0; c < Plan::kOthers; ++c) weight_at<Plan>(weights, r, c) = scores[r][c];
    }
    add_weighted<Plan>(weights, queries, size, buffer, dk_sums);
  }
  T dk_factors[Plan::kRows], dv_factors[Plan::kRows];
  LOCKSTEP_UNROLL
  for (int r = 0; r < Plan::kRows; ++r) {
    dk_factors[r] = scale;
    dv_factors[r] = 1;
  }
  const int64_t keys = a.kv_heads;
  store_rows<Plan>(dk + head_begin(a, keys, place.head, a.keys, a.k_row) + place.first * a.k_row, a.k_row,
                   own.count, size, dk_factors, dk_sums);
  store_rows<Plan>(dv + head_begin(a, keys, place.head, a.keys, a.v_row) + place.first * a.v_row, a.v_row,
                   own.count, size, dv_factors, dv_sums);
}

// Calls function(S{}, TilePlan{}, bool_constant) with the plan for the call's type and size of heads, and
// whether weights are dropped.
template <class F>
void dispatch_tiles(const char* where, const AttentionArguments& a, const F& function) {
  if (a.size > kLargestSize) {
    fail(ErrorKind::kUsage, std::string(where) + ": heads of " + std::to_string(a.size) +
                                " numbers; on GPUs they may have at most " + std::to_string(kLargestSize));
  }
  dispatch_floating(where, a.dtype, [&]<class S>(S zero) {
    using T = Accumulation<S>;
    const auto planned = [&](auto plan) {
      return a.dropout > 0.0 ? function(zero, plan, std::true_type{})
                             : function(zero, plan, std::false_type{});
    };
    if (a.size <= 4 * kSide) return planned(TilePlan<T, 4>{});
    if (a.size <= 8 * kSide) return planned(TilePlan<T, 8>{});
    return planned(TilePlan<T, 16>{});
  });
}

// Whether cuDNN's graphs of ours cover the call.
bool for_cudnn(const AttentionArguments& a) {
  return a.group() == 1 && a.first_keys == nullptr && a.dropout == 0.0;
}

}  // namespace

// Warp groups are the second candidate, which is computed where it is asked for: not until a device has been
// seen to compute it does measurement choose between the two.
Multiplier CudaBackend::multiplier() {
  const uint64_t generation = plans_->generation();
  if (multiplier_asked_ != generation) {
    const PlanTable::Search search = plans_->search();
    const auto [major, minor] = compute_capability(device_);
    multiplier_ = !search.tune && search.candidate > 0 && warp_groups_multiply(major, minor)
                      ? Multiplier::kFourWarps
                      : Multiplier::kOneWarp;
    multiplier_asked_ = generation;
  }
  return multiplier_;
}

void CudaBackend::attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                            void* y, void* log_sums) {
  AttentionArguments a = arguments;
  a.kv_heads = a.key_heads();
  if (Cudnn* const library = for_cudnn(a) ? cudnn() : nullptr;
      library != nullptr && library->attention(a, q, k, v, y, log_sums)) {
    return;
  }
  if (is_for_tensor_cores(a, {q, k, v, y})) {
    return tensor_core_attention(multiplier(), a, q, k, v, y, static_cast<float*>(log_sums), stream());
  }
  dispatch_tiles(
      "attention", a, [&]<class S, class Plan, bool kDropout>(S, Plan, std::bool_constant<kDropout>) {
        const int64_t tiles = tiles_of(a.queries, Plan::kOwn);
        LOCKSTEP_LAUNCH((attention_kernel<S, Plan, kDropout>), blocks_for(tiles * a.batch * a.heads, 1),
                        kThreads, 0, stream(), a, a.group(), tiles, static_cast<const S*>(q),
                        static_cast<const S*>(k), static_cast<const S*>(v), static_cast<S*>(y),
                        static_cast<Accumulation<S>*>(log_sums));
      });
}

void CudaBackend::attention_backward(const AttentionArguments& arguments, const void* q, const void* k,
                                     const void* v, const void* y, const void* log_sums, const void* dy,
                                     void* dq, void* dk, void* dv) {
  AttentionArguments a = arguments;
  a.kv_heads = a.key_heads();
  if (Cudnn* const library = for_cudnn(a) ? cudnn() : nullptr;
      library != nullptr && library->attention_backward(a, q, k, v, y, log_sums, dy, dq, dk, dv)) {
    return;
  }
  const int64_t rows = a.batch * a.heads * a.queries;
  if (is_for_tensor_cores(a, {q, k, v, y, dy, dq, dk, dv})) {
    return tensor_core_attention_backward(multiplier(), a, q, k, v, y, static_cast<const float*>(log_sums),
                                          dy, dq, dk, dv, scratch<float>(rows), stream());
  }
  dispatch_tiles(
      "attention_backward", a,
      [&]<class S, class Plan, bool kDropout>(S, Plan, std::bool_constant<kDropout>) {
        using T = Accumulation<S>;
        T* const row_sums = scratch<T>(rows);
        const T* const logs = static_cast<const T*>(log_sums);
        const S *const queries = static_cast<const S*>(q), *const keys = static_cast<const S*>(k);
        const S *const values = static_cast<const S*>(v), *const gradient = static_cast<const S*>(dy);
        LOCKSTEP_LAUNCH(row_sums_kernel<S>, blocks_for(rows, kThreads / kWarp), kThreads, 0, stream(), a,
                        static_cast<const S*>(y), gradient, row_sums);
        const int64_t query_tiles = tiles_of(a.queries, Plan::kOwn), key_tiles = tiles_of(a.keys, Plan::kOwn);
        LOCKSTEP_LAUNCH((attention_keys_kernel<S, Plan, kDropout>),
                        blocks_for(key_tiles * a.batch * a.kv_heads, 1), kThreads, 0, stream(), a, a.group(),
                        key_tiles, queries, keys, values, logs, row_sums, gradient, static_cast<S*>(dk),
                        static_cast<S*>(dv));
        LOCKSTEP_LAUNCH((attention_queries_kernel<S, Plan, kDropout>),
                        blocks_for(query_tiles * a.batch * a.heads, 1), kThreads, 0, stream(), a, a.group(),
                        query_tiles, queries, keys, values, logs, row_sums, gradient, static_cast<S*>(dq));
      });
}

}  // namespace lockstep
