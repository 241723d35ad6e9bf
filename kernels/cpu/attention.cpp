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
#include "lockstep/kernels/cpu/philox_batch.h"
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

// The rows of head `index` (counted through the batch) of an array of so many heads, whose batches are
// `positions` rows long.
template <class S, class V>
Rows<S> head_rows(const AttentionArguments& a, V* array, int64_t heads, int64_t positions, int64_t row,
                  int64_t index) {
  return {static_cast<S*>(array) + index / heads * positions * row + index % heads * a.size, row};
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

// What the queries of one batch see.
class Sight {
 public:
  Sight(const AttentionArguments& a, int64_t batch)
      : causal_(a.causal),
        keys_(a.keys),
        ahead_(a.keys - a.queries),
        first_(a.first_keys == nullptr ? nullptr : a.first_keys + batch * a.first_keys_batch) {}

  // Query `t` sees keys [begin, end); neither decreases from query to query.
  int64_t begin(int64_t t) const { return first_ == nullptr ? 0 : first_[t]; }
  int64_t end(int64_t t) const { return causal_ ? t + ahead_ + 1 : keys_; }
  // The block of keys that the first of them is in.
  int64_t first_block(int64_t t) const { return begin(t) / kKeys * kKeys; }

  // Which of the queries [query, query + count), counted from `query`, see the key; in whole vectors, of
  // `width`, where the last one does.
  struct Range {
    int64_t begin, end;
  };
  Range seeing(int64_t query, int64_t count, int64_t width, int64_t key) const {
    const int64_t first = causal_ ? std::clamp<int64_t>(key - ahead_ - query, 0, width) : 0;
    if (first_ == nullptr || first_[query + count - 1] <= key) return {first, width};
    const int32_t* const from = first_ + query;
    return {first, std::max<int64_t>(first, std::upper_bound(from, from + count, key) - from)};
  }

 private:
  bool causal_;
  int64_t keys_, ahead_;
  const int32_t* first_;
};

// factors (kKeys, kQueries) = 0 where dropout drops a weight, else 1 / (1 - dropout); queries from number
// `query` of all heads' and batches' on, keys from `key` on.
template <class T>
void draw_factors(const AttentionArguments& a, int64_t query, int64_t key, T* factors) {
  static_assert(kQueries == kPhiloxBatch && kKeys == 64, "see AttentionArguments::draws");
  constexpr int64_t kApart = kKeys / 4;  // keys of a block of draws
  const float threshold = static_cast<float>(a.dropout);
  const T kept = static_cast<T>(1.0 / (1.0 - a.dropout));
  alignas(64) uint32_t words[4][kPhiloxBatch];
  for (int64_t j = 0; j < kApart; ++j) {
    philox_batch(a.draws, static_cast<uint32_t>(a.first_draw(query) + key / kKeys * kApart + j),
                 static_cast<uint32_t>(a.first_draw(1)), words);
    for (int64_t word = 0; word < 4; ++word) {
      simd_for<T>(kQueries, [to = factors + (word * kApart + j) * kQueries, from = words[word], threshold,
                             kept](int64_t i) { to[i] = uniform_float(from[i]) < threshold ? T(0) : kept; });
    }
  }
}

// x *= factors, in the first `width` columns of both (n, kQueries).
template <class T>
void multiply_elements(int64_t n, int64_t width, const T* factors, T* x) {
  for (int64_t j = 0; j < n; ++j) {
    simd_for<T>(width, [by = factors + j * kQueries, to = x + j * kQueries](int64_t i) { to[i] *= by[i]; });
  }
}

// One block of queries of one head: queries [first, first + count).
template <class S>
void attend(const AttentionArguments& a, const Sight& sight, int64_t head, Rows<const S> q, Rows<const S> k,
            Rows<const S> v, Rows<S> y, Accumulation<S>* log_sums, int64_t first, int64_t count) {
  using T = Accumulation<S>;
  thread_local Scratch scratch;
  const int64_t block = kQueries * a.size;
  Pieces<T> pieces(scratch.get<T>(5 * Pieces<T>::padded(block) + 2 * kKeys * kQueries + 4 * kQueries));
  T *const scaled = pieces.take(block), *const across = pieces.take(block), *const sums = pieces.take(block);
  T *const keys_room = pieces.take(block), *const values_room = pieces.take(block);
  T* const scores = pieces.take(kKeys * kQueries);
  T* const drops = a.dropout > 0.0 ? pieces.take(kKeys * kQueries) : nullptr;
  T *const maxima = pieces.take(kQueries), *const larger = pieces.take(kQueries);
  T *const totals = pieces.take(kQueries), *const factors = pieces.take(kQueries);

  // Whole vectors of queries; those behind the last are zero, and what they see is of no account.
  const int64_t width = Pieces<T>::padded(count);
  copy_scaled(count, a.size, Rows<const S>{q.at(first), q.row}, T(a.scale), scaled);
  transpose_padded(count, a.size, scaled, a.size, across, kQueries);
  std::fill_n(maxima, kQueries, -std::numeric_limits<T>::infinity());
  std::fill_n(totals, kQueries, T(0));

  const int64_t begin = sight.first_block(first), end = sight.end(first + count - 1);
  for (int64_t key = begin; key < end; key += kKeys) {
    const int64_t n = std::min(kKeys, end - key);
    const Rows<const T> keys = widened(n, a.size, Rows<const S>{k.at(key), k.row}, keys_room);
    multiply_into<T>(n, width, a.size, keys, false, {across, kQueries}, {scores, kQueries}, false);

    std::copy_n(maxima, kQueries, larger);
    for (int64_t j = 0; j < n; ++j) {
      const auto [blind, stop] = sight.seeing(first, count, width, key + j);
      const T* const from = scores + j * kQueries + blind;
      simd_for<T>(stop - blind,
                  [to = larger + blind, from](int64_t i) { to[i] = from[i] > to[i] ? from[i] : to[i]; });
    }
    simd_for<T>(width, [=](int64_t i) {
      // A query that has seen no key yet has no maximum.
      const T reference = larger[i] == -std::numeric_limits<T>::infinity() ? T(0) : larger[i];
      factors[i] = math::exp_normal(maxima[i] - reference);
      totals[i] *= factors[i];
      maxima[i] = larger[i];
    });
    // What is not seen is left out rather than given -infinity, for which e^x underflows: that takes many
    // times as long.
    for (int64_t j = 0; j < n; ++j) {
      const auto [blind, stop] = sight.seeing(first, count, width, key + j);
      T* const row = scores + j * kQueries;
      std::fill_n(row, blind, T(0));
      std::fill_n(row + stop, width - stop, T(0));
      simd_for<T>(stop - blind,
                  [maximum = maxima + blind, total = totals + blind, p = row + blind](int64_t i) {
                    p[i] = math::exp_normal(p[i] - maximum[i]);
                    total[i] += p[i];
                  });
    }
    if (drops != nullptr) {
      draw_factors(a, head * a.queries + first, key, drops);
      multiply_elements(n, width, drops, scores);
    }
    for (int64_t i = 0; key > begin && i < count; ++i) {
      if (factors[i] == T(1)) continue;
      simd_for<T>(a.size, [row = sums + i * a.size, factor = factors[i]](int64_t c) { row[c] *= factor; });
    }
    const Rows<const T> values = widened(n, a.size, Rows<const S>{v.at(key), v.row}, values_room);
    multiply_into<T>(count, a.size, n, {scores, kQueries}, true, values, {sums, a.size}, key > begin);
  }
  for (int64_t i = 0; i < count; ++i) {
    const T inverse = T(1) / totals[i];
    simd_for<T>(a.size, [to = y.at(first + i), from = sums + i * a.size, inverse](int64_t c) {
      to[c] = S(from[c] * inverse);
    });
    log_sums[first + i] = maxima[i] + math::log(totals[i]);
  }
}

// What a call of attend_backward computes: dq of some queries of some heads, dk and dv of some keys, from
// what they make of each other.
struct Part {
  int64_t
      heads;  // that read the same keys, side by side: one, or where dk and dv are asked for the whole group
  int64_t first_query, end_query, first_key, end_key;  // both from multiples of their blocks on
  bool dq, dk_dv;
};

// A part of the heads that read one head of keys, from the first of them on, number `first_head` of the
// batches'. With p the softmax, s = scale q k', o = dy v' and m what dropout multiplies p by:
//   dv = (m p)' dy    ds = p (m o - sum of dy y)    dq = scale ds k    dk = scale ds' q
// Every sum runs over whole blocks in their order, so that the parts do not show in it.
template <class S>
void attend_backward(const AttentionArguments& a, const Sight& sight, int64_t first_head, const Part& part,
                     Rows<const S> q, Rows<const S> k, Rows<const S> v, Rows<const S> y,
                     const Accumulation<S>* log_sums, Rows<const S> dy, Rows<S> dq, Rows<S> dk, Rows<S> dv) {
  using T = Accumulation<S>;
  constexpr bool kRounds = !std::is_same_v<S, T>;
  thread_local Scratch scratch;
  const int64_t part_keys = part.end_key - part.first_key;
  const int64_t block = kQueries * a.size, copied = kRounds ? part_keys * a.size : 0;
  Pieces<T> pieces(scratch.get<T>(5 * Pieces<T>::padded(block) + 4 * Pieces<T>::padded(copied) +
                                  3 * kKeys * kQueries + 2 * kQueries));
  T *const scaled = pieces.take(block), *const across = pieces.take(block),
           *const dy_across = pieces.take(block);
  T *const dy_room = pieces.take(block), *const dq_sums = pieces.take(block);
  T *const scores = pieces.take(kKeys * kQueries), *const products = pieces.take(kKeys * kQueries);
  T* const drops = a.dropout > 0.0 ? pieces.take(kKeys * kQueries) : nullptr;
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

  const int64_t blocks = (part.end_query - part.first_query + kQueries - 1) / kQueries;
  for (int64_t step = 0; step < part.heads * blocks; ++step) {
    const int64_t head = step / blocks, first = part.first_query + step % blocks * kQueries;
    const int64_t count = std::min(kQueries, part.end_query - first), width = Pieces<T>::padded(count);
    const int64_t begin = std::max(part.first_key, sight.first_block(first));
    const int64_t end = std::min(part.end_key, sight.end(first + count - 1));
    if (end <= begin) continue;
    const auto own_head = [offset = head * a.size](auto rows) {
      rows.first += offset;
      return rows;
    };
    const Rows<const S> gradient = own_head(Rows<const S>{dy.at(first), dy.row});
    copy_scaled(count, a.size, own_head(Rows<const S>{q.at(first), q.row}), T(a.scale), scaled);
    transpose_padded(count, a.size, scaled, a.size, across, kQueries);
    transpose_padded(count, a.size, gradient.first, gradient.row, dy_across, kQueries);
    const Rows<const T> dy_rows = widened(count, a.size, gradient, dy_room);
    for (int64_t i = 0; i < kQueries; ++i) {
      logs[i] = i < count ? log_sums[head * a.queries + first + i] : T(0);
      row_sums[i] = i < count ? combine_values<SumOf, T>(
                                    a.size, [from = gradient.at(i), by = own_head(y).at(first + i)](
                                                int64_t c) { return T(from[c]) * T(by[c]); })
                              : T(0);
    }
    for (int64_t key = begin; key < end; key += kKeys) {
      const int64_t n = std::min(kKeys, end - key), own = key - part.first_key;
      const Rows<const T> block_keys{keys.at(own), keys.row}, block_values{values.at(own), values.row};
      multiply_into<T>(n, width, a.size, block_keys, false, {across, kQueries}, {scores, kQueries}, false);
      multiply_into<T>(n, width, a.size, block_values, false, {dy_across, kQueries}, {products, kQueries},
                       false);
      if (drops != nullptr) {
        draw_factors(a, (first_head + head) * a.queries + first, key, drops);
        multiply_elements(n, width, drops, products);
      }
      for (int64_t j = 0; j < n; ++j) {
        const auto [blind, stop] = sight.seeing(first, count, width, key + j);
        for (T* const row : {scores + j * kQueries, products + j * kQueries}) {
          std::fill_n(row, blind, T(0));
          std::fill_n(row + stop, width - stop, T(0));
        }
        T *const scored = scores + j * kQueries + blind, *const multiplied = products + j * kQueries + blind;
        simd_for<T>(stop - blind,
                    [log = logs + blind, row_sum = row_sums + blind, p = scored, o = multiplied](int64_t i) {
                      p[i] = math::exp(p[i] - log[i]);
                      o[i] = p[i] * (o[i] - row_sum[i]);
                    });
      }
      if (drops != nullptr) multiply_elements(n, width, drops, scores);
      if (part.dk_dv) {
        multiply_into<T>(n, a.size, count, {scores, kQueries}, false, dy_rows, {dv_sums.at(own), dv_sums.row},
                         true);
        multiply_into<T>(n, a.size, count, {products, kQueries}, false, {scaled, a.size},
                         {dk_sums.at(own), dk_sums.row}, true);
      }
      if (part.dq) {
        multiply_into<T>(count, a.size, n, {products, kQueries}, true, block_keys, {dq_sums, a.size},
                         key > begin);
      }
    }
    for (int64_t i = 0; part.dq && i < count; ++i) {
      simd_for<T>(a.size, [to = own_head(dq).at(first + i), from = dq_sums + i * a.size,
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
  const int64_t work = queries * a.keys * std::max<int64_t>(1, a.size);
  return std::max<int64_t>(1, kTileWork / std::max<int64_t>(1, work));
}

}  // namespace

void CpuBackend::attention(const AttentionArguments& arguments, const void* q, const void* k, const void* v,
                           void* y, void* log_sums) {
  const AttentionArguments& a = arguments;
  dispatch_floating("attention", a.dtype, [&](auto type) {
    using S = decltype(type);
    const int64_t blocks = (a.queries + kQueries - 1) / kQueries;
    parallel_ranges(a.batch * a.heads * blocks, tiles_of_a_range(a, std::min(kQueries, a.queries)),
                    [&](int64_t begin, int64_t end) {
                      for (int64_t tile = begin; tile < end; ++tile) {
                        const int64_t head = tile / blocks, first = tile % blocks * kQueries;
                        const int64_t keys = a.key_heads(), key_head = head / a.group();
                        attend(a, Sight(a, head / a.heads), head,
                               head_rows<const S>(a, q, a.heads, a.queries, a.q_row, head),
                               head_rows<const S>(a, k, keys, a.keys, a.k_row, key_head),
                               head_rows<const S>(a, v, keys, a.keys, a.v_row, key_head),
                               head_rows<S>(a, y, a.heads, a.queries, a.heads * a.size, head),
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
    // From query head `head` on, those of the part.
    const auto compute = [&](int64_t head, const Part& part) {
      const auto queries = [&]<class V>(V* array, int64_t row) {
        return head_rows<std::conditional_t<std::is_const_v<V>, const S, S>>(a, array, a.heads, a.queries,
                                                                             row, head);
      };
      const auto keys = [&]<class V>(V* array, int64_t row) {
        return head_rows<std::conditional_t<std::is_const_v<V>, const S, S>>(a, array, a.key_heads(), a.keys,
                                                                             row, head / a.group());
      };
      const int64_t row = a.heads * a.size;
      attend_backward<S>(a, Sight(a, head / a.heads), head, part, queries(q, a.q_row), keys(k, a.k_row),
                         keys(v, a.v_row), queries(y, row),
                         static_cast<const Accumulation<S>*>(log_sums) + head * a.queries, queries(dy, row),
                         queries(dq, a.q_row), keys(dk, a.k_row), keys(dv, a.v_row));
    };
    // A head of keys at a time takes five products a pair of blocks; where there are fewer of them than
    // threads, blocks of queries (three products, for dq) and of keys (four, for dk and dv) by themselves.
    // The bits are the same.
    const int64_t group = a.group(), key_heads = a.batch * a.key_heads();
    if (key_heads >= thread_pool().threads()) {
      parallel_ranges(key_heads, tiles_of_a_range(a, group * a.queries), [&](int64_t begin, int64_t end) {
        for (int64_t head = begin; head < end; ++head) {
          compute(head * group, {group, 0, a.queries, 0, a.keys, true, true});
        }
      });
      return;
    }
    const int64_t query_blocks = group * ((a.queries + kQueries - 1) / kQueries),
                  key_blocks = (a.keys + kKeys - 1) / kKeys;
    const int64_t blocks = query_blocks + key_blocks;
    parallel_ranges(
        key_heads * blocks, tiles_of_a_range(a, std::min(kQueries, a.queries)),
        [&](int64_t begin, int64_t end) {
          for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t head = tile / blocks * group, block = tile % blocks;
            if (block < query_blocks) {
              const int64_t first = block / group * kQueries;
              compute(head + block % group,
                      {1, first, std::min(a.queries, first + kQueries), 0, a.keys, true, false});
            } else {
              const int64_t first = (block - query_blocks) * kKeys;
              compute(head, {group, 0, a.queries, first, std::min(a.keys, first + kKeys), false, true});
            }
          }
        });
  });
}

}  // namespace lockstep
