// One row times a matrix: what is read once should be read in the order in which it lies in memory.
//
// A register tile reads b (k,n) in columns of two vectors, a piece of each row at a time, which neither
// prefetcher nor pages like; for one row that is all there is to do, and memory sets the pace. Here rows of b
// are read from end to end, several at a time, into sums that stay in the first-level cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/cpu/vector.h"

namespace lockstep {

// The factors of row `p` and, where they are pairs, of the one below it: columns j to j + count of b (rows
// ldb apart).
template <class T, class S>
[[gnu::always_inline]] inline Vector<T> row_factors(const S* b, int64_t ldb, int64_t j, int64_t count,
                                                    bool below) {
  if constexpr (std::is_same_v<T, Pair>) {
    // In the upper halves.
    Vector<Pair> pairs = reinterpret_cast<Vector<Pair>>(load_factors<float>(b + j, count)) >> 16;
    if (below) pairs |= reinterpret_cast<Vector<Pair>>(load_factors<float>(b + ldb + j, count));
    return pairs;
  } else {
    return load_factors<T>(b + j, count);
  }
}

// sums (n) = or += x (factors) times rows of b (elements of k, n), not transposed.
template <class T, class S>
void add_rows(const T* x, int64_t factors, int64_t elements, const S* b, int64_t ldb, int64_t n,
              Sum<T>* sums) {
  constexpr int64_t lanes = kLanes<T>, group = kGroup<T>, kTogether = 4;
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(S));
  std::fill_n(sums, n, Sum<T>{0});
  for (int64_t p = 0; p < factors; p += kTogether) {
    const int64_t count = std::min(kTogether, factors - p);
    const S* const rows = b + p * group * ldb;
    const bool whole = count == kTogether && (p + kTogether) * group <= elements;
    const bool more = (p + 2 * kTogether) * group <= elements;
    int64_t j = 0;
    for (; whole && j + lanes <= n; j += lanes) {
      Vector<Sum<T>> sum = load(sums + j);
#pragma GCC unroll 4
      for (int64_t i = 0; i < kTogether; ++i)
        sum = multiply_add(broadcast(x[p + i]), row_factors<T>(rows + i * group * ldb, ldb, j, lanes, true),
                           sum);
      store(sums + j, sum);
      if (more && j % kLine == 0) {
#pragma GCC unroll 8
        for (int64_t i = 0; i < kTogether * group; ++i)
          __builtin_prefetch(rows + (kTogether * group + i) * ldb + j, 0, 2);
      }
    }
    for (; j < n; j += lanes) {
      const int64_t width = std::min(lanes, n - j);
      Vector<Sum<T>> sum = load_first(sums + j, width);
      for (int64_t i = 0; i < count; ++i) {
        const bool below = (p + i + 1) * group <= elements;
        sum = multiply_add(broadcast(x[p + i]), row_factors<T>(rows + i * group * ldb, ldb, j, width, below),
                           sum);
      }
      store_first(sums + j, width, sum);
    }
  }
}

// totals (n) = a (k) times b (k,n), whose rows lie ldb apart. Sums over blocks of `longest` factors, blocks
// one after the other, as multiply() takes them.
template <class S>
void multiply_row(const S* a, int64_t k, const S* b, int64_t ldb, int64_t n, int64_t longest,
                  Sum<Factor<S>>* totals) {
  using T = Factor<S>;
  constexpr int64_t group = kGroup<T>;
  const int64_t factors = (k + group - 1) / group;
  thread_local Scratch scratch;
  // What a holds, as it is multiplied; behind it the sums of a block.
  T* const x = scratch.get<T>(factors + n);
  Sum<T>* const sums = reinterpret_cast<Sum<T>*>(x + factors);
  for (int64_t p = 0; p < factors; ++p) {
    if constexpr (std::is_same_v<T, Pair>) {
      x[p] = {a[2 * p], 2 * p + 1 < k ? a[2 * p + 1] : S(0.0f)};
    } else {
      x[p] = T(a[p]);
    }
  }
  for (int64_t from = 0; from < factors; from += longest) {
    const int64_t depth = std::min(longest, factors - from);
    const int64_t elements = std::min(depth * group, k - from * group);
    Sum<T>* const to = from == 0 ? totals : sums;
    constexpr int64_t kColumns = 2048;
    for (int64_t j = 0; j < n; j += kColumns) {
      add_rows<T>(x + from, depth, elements, b + from * group * ldb + j, ldb, std::min(kColumns, n - j),
                  to + j);
    }
    for (int64_t j = 0; from > 0 && j < n; ++j) totals[j] = totals[j] + sums[j];
  }
}

}  // namespace lockstep
