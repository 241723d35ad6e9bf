// Copies and transposes of small matrices into the layouts that register tiles read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/vector.h"

namespace lockstep {

// y (columns, rows of them ldy apart) = transpose of x (rows, columns); rows ldx apart. Rows of y are filled
// with zeros up to the next multiple of the vector length, for which there must be room.
template <class T>
void transpose_padded(int64_t rows, int64_t columns, const T* x, int64_t ldx, T* y, int64_t ldy) {
  constexpr int64_t n = kLanes<T>;
  for (int64_t r = 0; r < rows; r += n) {
    const int64_t height = std::min(n, rows - r);
    for (int64_t c = 0; c < columns; c += n) {
      const int64_t width = std::min(n, columns - c);
      Vector<T> square[n];
      if (height == n && width == n) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) square[i] = load(x + (r + i) * ldx + c);
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) {
          square[i] = i < height ? load_first(x + (r + i) * ldx + c, width) : Vector<T>{};
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
// with zeros.
template <class T>
void copy_padded(int64_t depth, int64_t width, const T* x, int64_t ldx, T* y, int64_t ldy) {
  constexpr int64_t n = kLanes<T>;
  for (int64_t p = 0; p < depth; ++p, x += ldx, y += ldy) {
    int64_t j = 0;
    for (; j + n <= width; j += n) store(y + j, load(x + j));
    if (j < width) store(y + j, load_first(x + j, width - j));
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
