// Scaled dot-product attention of heads: blocks of queries against blocks of keys, the softmax carried along
// from block to block (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention").
//
// Scores of a block are kept as (keys, queries): maxima and sums over keys then run along whole vectors of
// queries, and the products that a block takes part in read it, and all else, where it lies.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/matmul_block.h"
#include "lockstep/kernels/cpu/matrix_copy.h"
#include "lockstep/kernels/cpu/pack.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep {

namespace {

// Queries and keys of a block: its scores take half of a first-level cache.
constexpr int64_t kQueries = 64, kKeys = 64;
// Multiply-adds of a tile below which several go to a thread together.
constexpr int64_t kTileWork = int64_t{1} << 18;

// Rows of one head in an array, `row` elements apart.
template <class S>
struct Rows {
  S* first = nullptr;
  int64_t row = 0;
  S* at(int64_t i) const { return first + i * row; }
};

// The rows of head `index` (counted through the batch) of an array whose batches are `positions` rows long.
template <class S, class V>
Rows<S> head_rows(const AttentionArguments& a, V* array, int64_t positions, int64_t row, int64_t index) {
  return {static_cast<S*>(array) + index / a.heads * positions * row + index % a.heads * a.size, row};
}

// Pieces of a thread's scratch memory, one behind the other.
template <class T>
class Pieces {
 public:
  explicit Pieces(T* memory) : next_(memory) {}
  T* take(int64_t count) {
    T* const piece = next_;
    next_ += padded(count);
    return piece;
  }
  static int64_t padded(int64_t count) {
    return (count + Pack<T>::kLanes - 1) / Pack<T>::kLanes * Pack<T>::kLanes;
  }

 private:
  T* next_;
};

// y (rows, size) = x * factor
template <class S, class T>
void copy_scaled(int64_t rows, int64_t size, Rows<const S> x, T factor, T* y) {
  for (int64_t i = 0; i < rows; ++i) {
    simd_for<T>(size,
                [from = x.at(i), to = y + i * size, factor](int64_t j) { to[j] = T(from[j]) * factor; });
  }
}

// The rows as numbers to compute with: where they lie, or copied to `room`.
template <class S, class T>
Rows<const T> widened(int64_t rows, int64_t size, Rows<const S> x, T* room) {
  if constexpr (std::is_same_v<S, T>) {
    return x;
  } else {
    copy_scaled(rows, size, x, T(1), room);
    return {room, size};
  }
}

// c (m, n) = op(a) b, or c += op(a) b.
template <class T>
void multiply_into(int64_t m, int64_t n, int64_t k, Rows<const T> a, bool transpose_a, Rows<const T> b,
                   Rows<T> c, bool accumulate) {
  Product<T> product;
  product.m = m;
  product.n = n;
  product.k = k;
  product.a = a.first;
  product.lda = a.row;
  product.transpose_a = transpose_a;
  product.b = b.first;
  product.ldb = b.row;
  product.c = c.first;
  product.ldc = c.row;
  product.accumulate = accumulate;
  multiply(product);
}

// The keys that query `t` sees: keys 0 to visible_keys - 1.
int64_t visible_keys(const AttentionArguments& a, int64_t t) {
  return a.causal ? t + a.keys - a.queries + 1 : a.keys;
}

// How many of the queries from `query` on do not see the key: they come before the others. At most `width`.
int64_t blind_queries(const AttentionArguments& a, int64_t query, int64_t key, int64_t width) {
  return a.causal ? std::clamp<int64_t>(key - (a.keys - a.queries) - query, 0, width) : 0;
}

// One block of queries of one head: queries [first, first + count).
template <class S>
void attend(const AttentionArguments& a, Rows<const S> q, Rows<const S> k, Rows<const S> v, Rows<S> y,
            Accumulation<S>* log_sums, int64_t first, int64_t count) {
  using T = Accumulation<S>;
  thread_local Scratch scratch;
  const int64_t block = kQueries * a.size;
  Pieces<T> pieces(scratch.get<T>(5 * Pieces<T>::padded(block) + kKeys * kQueries + 4 * kQueries));
  T *const scaled = pieces.take(block), *const across = pieces.take(block), *const sums = pieces.take(block);
  T *const keys_room = pieces.take(block), *const values_room = pieces.take(block);
  T* const scores = pieces.take(kKeys * kQueries);
  T *const maxima = pieces.take(kQueries), *const larger = pieces.take(kQueries);
  T *const totals = pieces.take(kQueries), *const factors = pieces.take(kQueries);

  // Whole vectors of queries; those behind the last are zero, and what they see is of no account.
  const int64_t width = Pieces<T>::padded(count);
  copy_scaled(count, a.size, Rows<const S>{q.at(first), q.row}, T(a.scale), scaled);
  transpose_padded(count, a.size, scaled, a.size, across, kQueries);
  std::fill_n(maxima, kQueries, -std::numeric_limits<T>::infinity());
  std::fill_n(totals, kQueries, T(0));

  const int64_t end = visible_keys(a, first + count - 1);
  for (int64_t key = 0; key < end; key += kKeys) {
    const int64_t n = std::min(kKeys, end - key);
    const Rows<const T> keys = widened(n, a.size, Rows<const S>{k.at(key), k.row}, keys_room);
    multiply_into<T>(n, width, a.size, keys, false, {across, kQueries}, {scores, kQueries}, false);

    std::copy_n(maxima, kQueries, larger);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t blind = blind_queries(a, first, key + j, width);
      simd_for<T>(width - blind, [to = larger + blind, row = scores + j * kQueries + blind](int64_t i) {
        to[i] = row[i] > to[i] ? row[i] : to[i];
      });
    }
    simd_for<T>(width, [=](int64_t i) {
      factors[i] = math::exp_nonpositive(maxima[i] - larger[i]);
      totals[i] *= factors[i];
      maxima[i] = larger[i];
    });
    // What is not seen is left out rather than given -infinity, for which e^x underflows: that takes many
    // times as long.
    for (int64_t j = 0; j < n; ++j) {
      const int64_t blind = blind_queries(a, first, key + j, width);
      T* const row = scores + j * kQueries;
      std::fill_n(row, blind, T(0));
      simd_for<T>(width - blind,
                  [maximum = maxima + blind, total = totals + blind, p = row + blind](int64_t i) {
                    p[i] = math::exp_nonpositive(p[i] - maximum[i]);
                    total[i] += p[i];
                  });
    }
    for (int64_t i = 0; key > 0 && i < count; ++i) {
      if (factors[i] == T(1)) continue;
      simd_for<T>(a.size, [row = sums + i * a.size, factor = factors[i]](int64_t c) { row[c] *= factor; });
    }
    const Rows<const T> values = widened(n, a.size, Rows<const S>{v.at(key), v.row}, values_room);
    multiply_into<T>(count, a.size, n, {scores, kQueries}, true, values, {sums, a.size}, key > 0);
  }
  for (int64_t i = 0; i < count; ++i) {
    const T inverse = T(1) / totals[i];
    simd_for<T>(a.size, [to = y.at(first + i), from = sums + i * a.size, inverse](int64_t c) {
      to[c] = S(from[c] * inverse);
    });
    log_sums[first + i] = maxima[i] + math::log(totals[i]);
  }
}

// What a call of attend_backward computes: dq of some queries, dk and dv of some keys, from what they make of
// each other.
struct Part {
  int64_t first_query, end_query, first_key, end_key;  // keys from a multiple of kKeys on
  bool dq, dk_dv;
};

// A part of one head. With p the softmax, s = scale q k' and o = dy v':
//   dv = p' dy    ds = p (o - sum of dy y)    dq = scale ds k    dk = scale ds' q
// Every sum runs over whole blocks in their order, so that the parts do not show in it.
template <class S>
void attend_backward(const AttentionArguments& a, const Part& part, Rows<const S> q, Rows<const S> k,
                     Rows<const S> v, Rows<const S> y, const Accumulation<S>* log_sums, Rows<const S> dy,
                     Rows<S> dq, Rows<S> dk, Rows<S> dv) {
  using T = Accumulation<S>;
  constexpr bool kRounds = !std::is_same_v<S, T>;
  thread_local Scratch scratch;
  const int64_t part_keys = part.end_key - part.first_key;
  const int64_t block = kQueries * a.size, copied = kRounds ? part_keys * a.size : 0;
  Pieces<T> pieces(scratch.get<T>(5 * Pieces<T>::padded(block) + 4 * Pieces<T>::padded(copied) +
                                  2 * kKeys * kQueries + 2 * kQueries));
  T *const scaled = pieces.take(block), *const across = pieces.take(block),
           *const dy_across = pieces.take(block);
  T *const dy_room = pieces.take(block), *const dq_sums = pieces.take(block);
  T *const scores = pieces.take(kKeys * kQueries), *const products = pieces.take(kKeys * kQueries);
  T *const logs = pieces.take(kQueries), *const row_sums = pieces.take(kQueries);
  // Rows of the part's keys.
  const Rows<const S> own_k{k.at(part.first_key), k.row}, own_v{v.at(part.first_key), v.row};
  const Rows<S> own_dk{dk.at(part.first_key), dk.row}, own_dv{dv.at(part.first_key), dv.row};
  const Rows<const T> keys = widened(part_keys, a.size, own_k, pieces.take(copied));
  const Rows<const T> values = widened(part_keys, a.size, own_v, pieces.take(copied));
  Rows<T> dk_sums, dv_sums;  // what is not rounded is added up in place
  if constexpr (kRounds) {
    dk_sums = {pieces.take(copied), a.size};
    dv_sums = {pieces.take(copied), a.size};
  } else {
    dk_sums = own_dk;
    dv_sums = own_dv;
  }
  for (int64_t j = 0; part.dk_dv && j < part_keys; ++j) {
    std::fill_n(dk_sums.at(j), a.size, T(0));
    std::fill_n(dv_sums.at(j), a.size, T(0));
  }

  for (int64_t first = part.first_query; first < part.end_query; first += kQueries) {
    const int64_t count = std::min(kQueries, part.end_query - first), width = Pieces<T>::padded(count);
    const int64_t end = std::min(part.end_key, visible_keys(a, first + count - 1));
    if (end <= part.first_key) continue;
    const Rows<const S> gradient{dy.at(first), dy.row};
    copy_scaled(count, a.size, Rows<const S>{q.at(first), q.row}, T(a.scale), scaled);
    transpose_padded(count, a.size, scaled, a.size, across, kQueries);
    transpose_padded(count, a.size, gradient.first, gradient.row, dy_across, kQueries);
    const Rows<const T> dy_rows = widened(count, a.size, gradient, dy_room);
    for (int64_t i = 0; i < kQueries; ++i) {
      logs[i] = i < count ? log_sums[first + i] : T(0);
      row_sums[i] = i < count
                        ? combine_values<SumOf, T>(a.size, [from = gradient.at(i), by = y.at(first + i)](
                                                               int64_t c) { return T(from[c]) * T(by[c]); })
                        : T(0);
    }
    for (int64_t key = part.first_key; key < end; key += kKeys) {
      const int64_t n = std::min(kKeys, end - key), own = key - part.first_key;
      const Rows<const T> block_keys{keys.at(own), keys.row}, block_values{values.at(own), values.row};
      multiply_into<T>(n, width, a.size, block_keys, false, {across, kQueries}, {scores, kQueries}, false);
      multiply_into<T>(n, width, a.size, block_values, false, {dy_across, kQueries}, {products, kQueries},
                       false);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t blind = blind_queries(a, first, key + j, width);
        std::fill_n(scores + j * kQueries, blind, T(0));
        std::fill_n(products + j * kQueries, blind, T(0));
        simd_for<T>(width - blind,
                    [log = logs + blind, row_sum = row_sums + blind, p = scores + j * kQueries + blind,
                     o = products + j * kQueries + blind](int64_t i) {
                      p[i] = math::exp(p[i] - log[i]);
                      o[i] = p[i] * (o[i] - row_sum[i]);
                    });
      }
      if (part.dk_dv) {
        multiply_into<T>(n, a.size, count, {scores, kQueries}, false, dy_rows, {dv_sums.at(own), dv_sums.row},
                         true);
        multiply_into<T>(n, a.size, count, {products, kQueries}, false, {scaled, a.size},
                         {dk_sums.at(own), dk_sums.row}, true);
      }
      if (part.dq) {
        multiply_into<T>(count, a.size, n, {products, kQueries}, true, block_keys, {dq_sums, a.size},
                         key > 0);
      }
    }
    for (int64_t i = 0; part.dq && i < count; ++i) {
      simd_for<T>(a.size, [to = dq.at(first + i), from = dq_sums + i * a.size,
                           scale = T(a.scale)](int64_t c) { to[c] = S(from[c] * scale); });
    }
  }
  if constexpr (kRounds) {
    for (int64_t j = 0; part.dk_dv && j < part_keys; ++j) {
      simd_for<T>(a.size, [to = own_dk.at(j), from = dk_sums.at(j)](int64_t c) { to[c] = S(from[c]); });
      simd_for<T>(a.size, [to = own_dv.at(j), from = dv_sums.at(j)](int64_t c) { to[c] = S(from[c]); });
    }
  }
}

int64_t tiles_of_a_range(const AttentionArguments& a, int64_t queries) {
  const int64_t work = std::min(a.queries, queries) * a.keys * std::max<int64_t>(1, a.size);
  return std::max<int64_t>(1, kTileWork / std::max<int64_t>(1, work));
}

}  // namespace

void CpuBackend::attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                           void* y, void* log_sums) {
  const AttentionArguments& a = arguments;
  dispatch_floating("attention", a.dtype, [&](auto type) {
    using S = decltype(type);
    const int64_t blocks = (a.queries + kQueries - 1) / kQueries;
    parallel_ranges(a.batch * a.heads * blocks, tiles_of_a_range(a, kQueries),
                    [&](int64_t begin, int64_t end) {
                      for (int64_t tile = begin; tile < end; ++tile) {
                        const int64_t head = tile / blocks, first = tile % blocks * kQueries;
                        attend(a, head_rows<const S>(a, q, a.queries, a.q_row, head),
                               head_rows<const S>(a, k, a.keys, a.k_row, head),
                               head_rows<const S>(a, v, a.keys, a.v_row, head),
                               head_rows<S>(a, y, a.queries, a.heads * a.size, head),
                               static_cast<Accumulation<S>*>(log_sums) + head * a.queries, first,
                               std::min(kQueries, a.queries - first));
                      }
                    });
  });
}

void CpuBackend::attention_backward(const AttentionArguments& arguments, const void* q, const void* k,
                                    const void* v, const void* y, const void* log_sums, const void* dy,
                                    void* dq, void* dk, void* dv) {
  const AttentionArguments& a = arguments;
  dispatch_floating("attention_backward", a.dtype, [&](auto type) {
    using S = decltype(type);
    const auto compute = [&](int64_t head, const Part& part) {
      const auto queries = [&]<class V>(V* array, int64_t row) {
        return head_rows<std::conditional_t<std::is_const_v<V>, const S, S>>(a, array, a.queries, row, head);
      };
      const auto keys = [&]<class V>(V* array, int64_t row) {
        return head_rows<std::conditional_t<std::is_const_v<V>, const S, S>>(a, array, a.keys, row, head);
      };
      const int64_t row = a.heads * a.size;
      attend_backward<S>(a, part, queries(q, a.q_row), keys(k, a.k_row), keys(v, a.v_row), queries(y, row),
                         static_cast<const Accumulation<S>*>(log_sums) + head * a.queries, queries(dy, row),
                         queries(dq, a.q_row), keys(dk, a.k_row), keys(dv, a.v_row));
    };
    // A head at a time takes five products a pair of blocks; where there are fewer heads than threads, blocks
    // of queries (three products, for dq) and of keys (four, for dk and dv) by themselves. The bits are the
    // same.
    const int64_t heads = a.batch * a.heads;
    if (heads >= thread_pool().threads()) {
      parallel_ranges(heads, tiles_of_a_range(a, a.queries), [&](int64_t begin, int64_t end) {
        for (int64_t head = begin; head < end; ++head) compute(head, {0, a.queries, 0, a.keys, true, true});
      });
      return;
    }
    const int64_t query_blocks = (a.queries + kQueries - 1) / kQueries,
                  key_blocks = (a.keys + kKeys - 1) / kKeys;
    const int64_t blocks = query_blocks + key_blocks;
    parallel_ranges(heads * blocks, tiles_of_a_range(a, kQueries), [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t head = tile / blocks, block = tile % blocks, first = (block - query_blocks) * kKeys;
        if (block < query_blocks) {
          compute(head,
                  {block * kQueries, std::min(a.queries, (block + 1) * kQueries), 0, a.keys, true, false});
        } else {
          compute(head, {0, a.queries, first, std::min(a.keys, first + kKeys), false, true});
        }
      }
    });
  });
}

}  // namespace lockstep
