// Copies and transposes of small matrices into the layouts that register tiles read, and into what they
// multiply.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/vector.h"

namespace lockstep {

// y (columns, rows of them ldy apart) = transpose of x (rows, columns); rows ldx apart. Rows of y are filled
// with zeros up to the next multiple of the vector length, for which there must be room. Where a factor is
// several elements (kGroup), they are neighbours in a row of x, and y has as many fewer rows.
template <class T, class S>
void transpose_padded(int64_t rows, int64_t columns, const S* x, int64_t ldx, T* y, int64_t ldy) {
  constexpr int64_t group = kGroup<T>;
  const int64_t factors = (columns + group - 1) / group;
  constexpr int64_t n = kLanes<T>;
  for (int64_t r = 0; r < rows; r += n) {
    const int64_t height = std::min(n, rows - r);
    for (int64_t c = 0; c < factors; c += n) {
      const int64_t width = std::min(n, factors - c), elements = std::min(n * group, columns - c * group);
      const S* const from = x + r * ldx + c * group;
      Vector<T> square[n];
      if (height == n && elements == n * group) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) square[i] = load_factors<T>(from + i * ldx, n * group);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) {
          square[i] = i < height ? load_factors<T>(from + i * ldx, elements) : Vector<T>{};
        }
      }
      transpose<T>(square);
      if (width == n) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) store(y + (c + i) * ldy + r, square[i]);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) {
          if (i < width) store(y + (c + i) * ldy + r, square[i]);
        }
      }
    }
  }
}

// y (depth, width rounded up to whole vectors; rows ldy apart) = x (depth, width; rows ldx apart), padded
// with zeros. Where a factor is a pair, two rows of x, one below the other, become one of y.
template <class T, class S>
void copy_padded(int64_t depth, int64_t width, const S* x, int64_t ldx, T* y, int64_t ldy) {
  constexpr int64_t n = kLanes<T>;
  if constexpr (std::is_same_v<T, Pair>) {
    const auto bits_above = [](const S* row, int64_t count) {  // in the upper halves
      return reinterpret_cast<Vector<Pair>>(load_factors<float>(row, count));
    };
    for (int64_t p = 0; p < depth; p += 2, x += 2 * ldx, y += ldy) {
      for (int64_t j = 0; j < width; j += n) {
        const int64_t count = std::min(n, width - j);
        Vector<Pair> pairs = bits_above(x + j, count) >> 16;
        if (p + 1 < depth) pairs |= bits_above(x + ldx + j, count);
        store(y + j, pairs);
      }
    }
  } else {
    for (int64_t p = 0; p < depth; ++p, x += ldx, y += ldy) {
      int64_t j = 0;
      for (; j + n <= width; j += n) store(y + j, load_factors<T>(x + j, n));
      if (j < width) store(y + j, load_factors<T>(x + j, width - j));
    }
  }
}

// y (columns, rows) = transpose of x (rows, columns; rows ldx apart). Nothing behind y is touched.
template <class T>
void transpose_matrix(int64_t rows, int64_t columns, const T* x, int64_t ldx, T* y) {
  const int64_t whole = rows / kLanes<T> * kLanes<T>;
  transpose_padded(whole, columns, x, ldx, y, rows);
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = whole; r < rows; ++r) y[c * rows + r] = x[r * ldx + c];
  }
}

}  // namespace lockstep
