// The register tiles of convolution: sums of products whose operands are found in place, at the offsets of
// pixels.
//
// Both are the tile of a matrix product (R rows of sums, V vectors wide, every sum in order) without the
// matrix: a row is where the caller says it starts, and the inner extent is walked in pieces.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "lockstep/kernels/cpu/vector.h"

namespace lockstep {

// Rows of a tile: with 32 registers 14 x 2 sums, 2 vectors of the right operand, one of the left.
inline constexpr int kTileRows = kVectorRegisters == 32 ? 14 : 6;
inline constexpr int kTileVectors = 2;

// Steps along the inner extent taken at once. A narrow tile has registers to spare for several, and needs
// them: with one step, reading the rows' addresses would take as long as multiplying.
template <int V>
inline constexpr int kSteps = V == 1 ? 4 : 1;

// sum[i][j] += rows[i][p + s * left_step] * right[s * right_step, vector j], for s = 0 ... S-1 in order. T:
// what is multiplied, a floating type or Pair.
template <class T, int R, int V, int S>
[[gnu::always_inline]] inline void add_products(const T* const (&rows)[R], int64_t p, int64_t left_step,
                                                const T* right, int64_t right_step,
                                                Vector<Sum<T>> (&sum)[R][V]) {
  Vector<T> other[S][V];
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) other[s][j] = load(right + s * right_step + j * kLanes<T>);
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      const Vector<T> one = broadcast(rows[i][p + s * left_step]);
#pragma GCC unroll 2
      for (int j = 0; j < V; ++j) sum[i][j] = multiply_add(one, other[s][j], sum[i][j]);
    }
  }
}

// A stretch of the inner extent: `length` factors from `left` on, counted from where each row starts, meet
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
  const Sum<T>* bias;        // of the tile's columns, or null
  Sum<T>* result;
  const int64_t* result_rows;  // R offsets into result
  int64_t columns;             // valid ones
};

// result row i = bias + sum over the stretches of left_rows[i][...] * right[...].
template <class T, int R, int V>
void multiply_pixels(const PixelTile<T>& tile) {
  Vector<Sum<T>> sum[R][V];
  const T* rows[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    rows[i] = tile.left + tile.left_rows[i];
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) sum[i][j] = Vector<Sum<T>>{};
  }
  for (const Stretch *s = tile.stretches, *end = s + tile.stretch_count; s != end; ++s) {
    const T* right_row = tile.right + s->right * (V * kLanes<T>);
    int64_t p = s->left;
    const int64_t stop = p + s->length;
    for (; p + kSteps<V> <= stop; p += kSteps<V>, right_row += kSteps<V> * V * kLanes<T>) {
      add_products<T, R, V, kSteps<V>>(rows, p, 1, right_row, V * kLanes<T>, sum);
    }
    for (; p < stop; ++p, right_row += V * kLanes<T>) add_products<T, R, V, 1>(rows, p, 1, right_row, 0, sum);
  }
#pragma GCC unroll 2
  for (int j = 0; j < V; ++j) {
    const int64_t count = std::min<int64_t>(tile.columns - j * kLanes<T>, kLanes<T>);
    Vector<Sum<T>> bias{};
    if (tile.bias) bias = load_first(tile.bias + j * kLanes<T>, count);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      Sum<T>* const to = tile.result + tile.result_rows[i] + j * kLanes<T>;
      const Vector<Sum<T>> x = tile.bias ? sum[i][j] + bias : sum[i][j];
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
      int64_t pixel = 0;
      for (; pixel + kSteps<V> <= walk.pixels; pixel += kSteps<V>) {
        add_products<T, R, V, kSteps<V>>(rows, p, walk.left_pixel, right_row, walk.right_pixel, sum);
        p += kSteps<V> * walk.left_pixel;
        right_row += kSteps<V> * walk.right_pixel;
      }
      for (; pixel < walk.pixels; ++pixel, p += walk.left_pixel, right_row += walk.right_pixel) {
        add_products<T, R, V, 1>(rows, p, 0, right_row, 0, sum);
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
