// Copies and transposes of small matrices into the layouts that register tiles read, and into what they
// multiply.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lockstep/kernels/cpu/vector.h"

namespace lockstep {

#if defined(__AVX512F__)
// y = transpose of a square of 16 x 16 factors of four bytes; rows of x lie row_bytes apart. The loads put
// quarters of four rows into one register, so that two rounds of interleaving are left: 72 cycles against 96
// of transpose() with its four.
template <class T>
requires(sizeof(T) == 4)
    [[gnu::always_inline]] inline void transpose_square(const void* x, int64_t row_bytes, T* y, int64_t ldy) {
  const auto quarter = [=](int row, int q) {
    return _mm_loadu_ps(
        reinterpret_cast<const float*>(static_cast<const char*>(x) + row * row_bytes + 16 * q));
  };
  Vector<float> quarters[4][4];  // [i][q]: rows i, 4 + i, 8 + i and 12 + i of columns 4q to 4q + 3
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      __m512 rows = _mm512_maskz_broadcast_f32x4(0x000F, quarter(i, q));
      rows = _mm512_mask_broadcast_f32x4(rows, 0x00F0, quarter(4 + i, q));
      rows = _mm512_mask_broadcast_f32x4(rows, 0x0F00, quarter(8 + i, q));
      quarters[i][q] = _mm512_mask_broadcast_f32x4(rows, 0xF000, quarter(12 + i, q));
    }
  }
  // Elements of the lower or upper halves of each quarter, in turns.
  const auto singles = [](Vector<float> a, Vector<float> b, bool upper) {
    return reinterpret_cast<Vector<double>>(
        upper ? __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
              : __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29));
  };
  const auto doubles = [](Vector<double> a, Vector<double> b, bool upper) {
    return reinterpret_cast<Vector<T>>(upper ? __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
                                             : __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14));
  };
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 2
    for (int upper = 0; upper < 2; ++upper) {
      const Vector<double> front = singles(quarters[0][q], quarters[1][q], upper);
      const Vector<double> back = singles(quarters[2][q], quarters[3][q], upper);
      store(y + (4 * q + 2 * upper) * ldy, doubles(front, back, false));
      store(y + (4 * q + 2 * upper + 1) * ldy, doubles(front, back, true));
    }
  }
}
#endif

// y = transpose of a square of lanes x lanes factors, made of the first `elements` of each row of x (rows ldx
// apart) and zeros behind them; rows of y lie ldy apart.
template <class T, class S>
[[gnu::always_inline]] inline void transpose_rows(const S* x, int64_t ldx, int64_t elements, T* y,
                                                  int64_t ldy) {
  constexpr int64_t n = kLanes<T>;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && sizeof(S) * kGroup<T> == sizeof(T)) {
    if (elements == n * kGroup<T>) {
      transpose_square(x, ldx * static_cast<int64_t>(sizeof(S)), y, ldy);
      return;
    }
  }
#endif
  Vector<T> square[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) square[i] = load_factors<T>(x + i * ldx, elements);
  transpose<T>(square);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) store(y + i * ldy, square[i]);
}

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
      if (height == n && width == n) {
        transpose_rows(from, ldx, elements, y + c * ldy + r, ldy);
        continue;
      }
      Vector<T> square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        square[i] = i < height ? load_factors<T>(from + i * ldx, elements) : Vector<T>{};
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

// y (columns, rows; rows ldy apart) = transpose of x (rows, columns; rows ldx apart). Nothing else is
// touched.
template <class T>
void transpose_matrix(int64_t rows, int64_t columns, const T* x, int64_t ldx, T* y, int64_t ldy) {
  constexpr int64_t n = kLanes<T>;
  const int64_t rest = rows % n, whole = rows - rest;
  transpose_padded(whole, columns, x, ldx, y, ldy);
  const T* const below = x + whole * ldx;
  if constexpr (kVectorBytes < 64) {  // a part of a vector is stored one by one
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rest; ++r) y[c * ldy + whole + r] = below[r * ldx + c];
    }
  } else {
    for (int64_t c = 0; rest > 0 && c < columns; c += n) {
      const int64_t width = std::min(n, columns - c);
      alignas(64) T square[n * n];
      transpose_padded(rest, width, below + c, ldx, square, n);
      for (int64_t i = 0; i < width; ++i) store_first(y + (c + i) * ldy + whole, rest, load(square + i * n));
    }
  }
}

}  // namespace lockstep
