// Reductions down the columns of a row-major array, in a fixed order that threads cannot change.
//
// Order: rows are cut into segments (a tile of work each), a segment into blocks of 64 rows. A block is added
// row by row, blocks one after the other, segments by a binary tree. Short sums nested in long ones keep fp32
// rounding small.
//
// Narrow arrays are folded: (rows, columns) is read as (rows/group, group*columns), which fills whole vector
// registers, and the group partial results of a column are combined at the end, in order.
#pragma once

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/pack.h"

namespace lockstep {

// How (rows, columns) is folded. A function of the shape alone.
struct Fold {
  int64_t group = 1;  // rows read as one
  int64_t rows = 0;   // folded rows
  int64_t width = 0;  // group * columns
  int64_t rest = 0;   // unfolded rows left over, fewer than group
};

// No folded array is wider than this: below 64 columns, times a group of at most one pack (or as many as make
// 64).
inline constexpr int64_t kMaxFoldedWidth = 1024;

template <class T>
Fold fold_rows(int64_t rows, int64_t columns) {
  constexpr int64_t kLanes = Pack<T>::kLanes, kFullWidth = 64;
  int64_t group = 1;
  if (columns > 0 && columns < kFullWidth) {
    group = kLanes / std::gcd(columns, kLanes);
    while (group * columns < kFullWidth) group *= 2;
    if (rows < 2 * group) group = 1;
  }
  return {group, rows / group, group * columns, rows % group};
}

// values repeated group times into buffer (kMaxFoldedWidth elements), or values themselves when nothing is
// folded.
template <class T>
const T* repeat_for(const Fold& fold, const T* values, T* buffer) {
  if (fold.group == 1) return values;
  const int64_t columns = fold.width / fold.group;
  for (int64_t i = 0; i < fold.width; i += columns) std::copy_n(values, columns, buffer + i);
  return buffer;
}

// What is summed. Called as term.template operator()<P>(index, row, column), P a Pack or Single: the K values
// at element `index` of the array, lying at (row, column) of the folded array.
template <class P, size_t K>
using Values = std::array<P, K>;

// Combines rows [begin, end) of kPacks packs of columns, from column `column` on, into y[k][column ...].
template <class Combine, class P, int kPacks, size_t K, class T, class Term>
void combine_stripe(int64_t begin, int64_t end, int64_t stride, int64_t column, const Term& term,
                    const std::array<T*, K>& y) {
  constexpr int64_t kBlockRows = 64;
  P total[K][kPacks];
  for (auto& packs : total) {
    for (P& pack : packs) pack = P::repeat(Combine::template kStart<T>);
  }
  for (int64_t row = begin; row < end;) {
    P block[K][kPacks];
    for (auto& packs : block) {
      for (P& pack : packs) pack = P::repeat(Combine::template kStart<T>);
    }
    const int64_t stop = std::min(row + kBlockRows, end);
    for (; row < stop; ++row) {
      const int64_t first = row * stride + column;
#pragma GCC unroll 16
      for (int p = 0; p < kPacks; ++p) {
        const Values<P, K> values =
            term.template operator()<P>(first + p * P::kLanes, row, column + p * P::kLanes);
        for (size_t k = 0; k < K; ++k) block[k][p] = Combine::combine(block[k][p], values[k]);
      }
    }
    for (size_t k = 0; k < K; ++k) {
      for (int p = 0; p < kPacks; ++p) total[k][p] = Combine::combine(total[k][p], block[k][p]);
    }
  }
  for (size_t k = 0; k < K; ++k) {
    for (int p = 0; p < kPacks; ++p) total[k][p].store(y[k] + column + p * P::kLanes);
  }
}

// Combines rows [begin, end) for columns [column, column_end): y[k][column].
template <class Combine, size_t K, class T, class Term>
void combine_rows(int64_t begin, int64_t end, int64_t stride, int64_t column, int64_t column_end,
                  const Term& term, const std::array<T*, K>& y) {
  using P = Pack<T>;
  constexpr int kWide = K == 1 ? 16 : 8;
  for (; column + kWide * P::kLanes <= column_end; column += kWide * P::kLanes) {
    combine_stripe<Combine, P, kWide>(begin, end, stride, column, term, y);
  }
  for (; column + 4 * P::kLanes <= column_end; column += 4 * P::kLanes) {
    combine_stripe<Combine, P, 4>(begin, end, stride, column, term, y);
  }
  for (; column + P::kLanes <= column_end; column += P::kLanes) {
    combine_stripe<Combine, P, 1>(begin, end, stride, column, term, y);
  }
  for (; column < column_end; ++column) {
    combine_stripe<Combine, Single<T>, 1>(begin, end, stride, column, term, y);
  }
}

// Combines `count` arrays of `width` elements that lie behind each other, by a binary tree, into the first.
template <class Combine, class T>
void combine_partials(int64_t count, int64_t width, T* partials) {
  for (int64_t distance = 1; distance < count; distance *= 2) {
    for (int64_t i = 0; i + distance < count; i += 2 * distance) {
      T* a = partials + i * width;
      const T* b = a + distance * width;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) a[c] = Combine::combine(Single<T>{a[c]}, Single<T>{b[c]}).raw;
    }
  }
}

// Memory for partial results, kept by the thread. Valid until the next call on it.
template <class T>
T* partial_buffer(int64_t elements) {
  thread_local std::vector<T> buffer;
  if (static_cast<int64_t>(buffer.size()) < elements) buffer.resize(static_cast<size_t>(elements));
  return buffer.data();
}

// y[k][c] = combination over the rows of a (rows, columns) array of what term gives at column c; fold is that
// of the shape, or one with group 1 when term must see the true rows.
template <class Combine, size_t K, class T, class Term>
void combine_columns(const Fold& fold, const Term& term, const std::array<T*, K>& y) {
  const int64_t columns = fold.width / fold.group;
  const int64_t segment_rows = std::max<int64_t>(64, kElementGrain / std::max<int64_t>(1, fold.width));
  const int64_t segments = std::max<int64_t>(1, (fold.rows + segment_rows - 1) / segment_rows);
  const bool direct = segments == 1 && fold.group == 1;
  const int64_t part_stride = fold.width * static_cast<int64_t>(K);
  T* partials = direct ? nullptr : partial_buffer<T>(segments * part_stride);
  // Wide arrays of few rows are cut across as well; the cut changes nobody's order of addition.
  const int64_t part_columns =
      std::max<int64_t>(256, kElementGrain / std::max<int64_t>(1, fold.rows) / 256 * 256);
  const int64_t parts =
      segments > 1 ? 1 : std::max<int64_t>(1, (fold.width + part_columns - 1) / part_columns);
  parallel_ranges(segments * parts, 1, [&](int64_t tile, int64_t) {
    const int64_t segment = tile / parts, part = tile % parts;
    const int64_t begin = segment * segment_rows;
    const int64_t column = parts == 1 ? 0 : part * part_columns;
    const int64_t column_end = parts == 1 ? fold.width : std::min(fold.width, column + part_columns);
    std::array<T*, K> out = y;
    if (!direct) {
      for (size_t k = 0; k < K; ++k)
        out[k] = partials + segment * part_stride + static_cast<int64_t>(k) * fold.width;
    }
    combine_rows<Combine>(begin, std::min(begin + segment_rows, fold.rows), fold.width, column, column_end,
                          term, out);
  });
  if (direct) return;
  combine_partials<Combine>(segments, part_stride, partials);
  for (size_t k = 0; k < K; ++k) {
    const T* folded = partials + static_cast<int64_t>(k) * fold.width;
    for (int64_t c = 0; c < columns; ++c) {
      Single<T> total{folded[c]};
      for (int64_t g = 1; g < fold.group; ++g)
        total = Combine::combine(total, Single<T>{folded[g * columns + c]});
      y[k][c] = total.raw;
    }
  }
  for (int64_t row = 0; row < fold.rest; ++row) {
    const int64_t first = fold.rows * fold.width + row * columns;
    for (int64_t c = 0; c < columns; ++c) {
      const Values<Single<T>, K> values = term.template operator()<Single<T>>(first + c, fold.rows, c);
      for (size_t k = 0; k < K; ++k) y[k][c] = Combine::combine(Single<T>{y[k][c]}, values[k]).raw;
    }
  }
}

}  // namespace lockstep
