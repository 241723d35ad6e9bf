// The register tiles of convolution: sums of products whose operands are found in place, at the offsets of
// pixels.
//
// Both are the tile of a matrix product (R rows of sums, V vectors wide, every sum in order) without the
// matrix: a row is where the caller says it starts, and the inner extent is walked in pieces.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/cpu/vector.h"

namespace lockstep {

// Rows of a tile: with 32 registers 14 x 2 sums, 2 vectors of the right operand, one of the left.
inline constexpr int kTileRows = kVectorRegisters == 32 ? 14 : 6;
inline constexpr int kTileVectors = 2;

// A stretch of the inner extent: `length` elements from `left` on, counted from where each row starts, meet
// as many rows of the right operand from row `right` on.
struct Stretch {
  int64_t left, right, length;
};

template <class T>
struct PixelTile {
  const Stretch* stretches;
  int64_t stretch_count;
  const T* left;
  const int64_t* left_rows;  // R offsets into left
  const T* right;            // rows of V whole vectors
  const T* bias;             // of the tile's columns, or null
  T* result;
  const int64_t* result_rows;  // R offsets into result
  int64_t columns;             // valid ones
};

// result row i = bias + sum over the stretches of left_rows[i][...] * right[...].
template <class T, int R, int V>
void multiply_pixels(const PixelTile<T>& tile) {
  Vector<T> sum[R][V];
  const T* rows[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    rows[i] = tile.left + tile.left_rows[i];
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) sum[i][j] = Vector<T>{};
  }
  for (const Stretch *s = tile.stretches, *end = s + tile.stretch_count; s != end; ++s) {
    const T* right_row = tile.right + s->right * (V * kLanes<T>);
    for (int64_t p = s->left, stop = s->left + s->length; p < stop; ++p) {
      Vector<T> right[V];
#pragma GCC unroll 2
      for (int j = 0; j < V; ++j) right[j] = load(right_row + j * kLanes<T>);
      right_row += V * kLanes<T>;
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const Vector<T> left = broadcast(rows[i][p]);
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) sum[i][j] = multiply_add(left, right[j], sum[i][j]);
      }
    }
  }
#pragma GCC unroll 2
  for (int j = 0; j < V; ++j) {
    const int64_t count = std::min<int64_t>(tile.columns - j * kLanes<T>, kLanes<T>);
    const Vector<T> bias = tile.bias ? load_first(tile.bias + j * kLanes<T>, count) : Vector<T>{};
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      T* const to = tile.result + tile.result_rows[i] + j * kLanes<T>;
      const Vector<T> x = tile.bias ? sum[i][j] + bias : sum[i][j];
      if (count == kLanes<T>) {
        store(to, x);
      } else {
        store_first(to, count, x);
      }
    }
  }
}

// Positions that both operands are walked over: images, lines of an image, pixels of a line.
struct Walk {
  int64_t images, lines, pixels;
  int64_t left_image, left_line, left_pixel;     // elements between consecutive ones in the left operand
  int64_t right_image, right_line, right_pixel;  // and in the right one
};

// result (R, V vectors; rows result_stride apart) = sum over the walk of left[left_rows[i] + ...] *
// right[...].
template <class T, int R, int V>
void multiply_walk(const Walk& walk, const T* left, const int64_t* left_rows, const T* right, T* result,
                   int64_t result_stride) {
  Vector<T> sum[R][V];
  const T* rows[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    rows[i] = left + left_rows[i];
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) sum[i][j] = Vector<T>{};
  }
  for (int64_t image = 0; image < walk.images; ++image) {
    for (int64_t line = 0; line < walk.lines; ++line) {
      int64_t p = image * walk.left_image + line * walk.left_line;
      const T* right_row = right + image * walk.right_image + line * walk.right_line;
      for (int64_t pixel = 0; pixel < walk.pixels; ++pixel) {
        Vector<T> other[V];
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) other[j] = load(right_row + j * kLanes<T>);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
          const Vector<T> one = broadcast(rows[i][p]);
#pragma GCC unroll 2
          for (int j = 0; j < V; ++j) sum[i][j] = multiply_add(one, other[j], sum[i][j]);
        }
        p += walk.left_pixel;
        right_row += walk.right_pixel;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) store(result + i * result_stride + j * kLanes<T>, sum[i][j]);
  }
}

// The tiles compiled for `rows` and `vectors`.
template <class T>
auto pixel_kernel(int64_t rows, int64_t vectors) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    using Kernel = void (*)(const PixelTile<T>&);
    static constexpr Kernel table[kTileVectors][kTileRows] = {{multiply_pixels<T, i + 1, 1>...},
                                                              {multiply_pixels<T, i + 1, 2>...}};
    return table[vectors - 1][rows - 1];
  }
  (std::make_integer_sequence<int, kTileRows>{});
}
template <class T>
auto walk_kernel(int64_t rows, int64_t vectors) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    using Kernel = void (*)(const Walk&, const T*, const int64_t*, const T*, T*, int64_t);
    static constexpr Kernel table[kTileVectors][kTileRows] = {{multiply_walk<T, i + 1, 1>...},
                                                              {multiply_walk<T, i + 1, 2>...}};
    return table[vectors - 1][rows - 1];
  }
  (std::make_integer_sequence<int, kTileRows>{});
}

}  // namespace lockstep
