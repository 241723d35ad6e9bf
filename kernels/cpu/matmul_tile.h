// The register tile of a matrix product, and what it does beside multiplying.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/cpu/vector.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep {

// Rows of a register tile: with 32 registers 14 x 2 sums, 2 vectors of b, one of a.
inline constexpr int kRows = kVectorRegisters == 32 ? 14 : 6;
inline constexpr int kVectors = 2;
template <class T>
inline constexpr int64_t kPanel = kVectors* kLanes<T>;

// Rows of b that are asked for ahead of copying them: some 450 cycles, the way to memory.
inline constexpr int64_t kRowsAhead = 16;

// Where a tile goes, and what happens to it on the way.
template <class T>
struct Destination {
  Sum<T>* c;
  int64_t ldc;
  int64_t columns;     // valid ones, at most the tile's
  bool add;            // to what c holds
  const Sum<T>* bias;  // of the tile's first column, or null
  Activation activation;
};

template <class T>
[[gnu::noinline]] Vector<T> gelu(Vector<T> x) {
  for (int i = 0; i < kLanes<T>; ++i) x[i] = math::gelu(x[i]);
  return x;
}

template <class T>
[[gnu::noinline]] Vector<T> gelu_tanh(Vector<T> x) {
  for (int i = 0; i < kLanes<T>; ++i) x[i] = math::gelu_tanh(x[i]);
  return x;
}

template <class T>
Vector<T> activate(Activation activation, Vector<T> x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x < T{0} ? Vector<T>{} : x;  // this way round NaN passes
    case Activation::kGelu:
      return gelu<T>(x);
    case Activation::kGeluTanh:
      return gelu_tanh<T>(x);
  }
  return x;
}

// What a register tile does on the side, where it is nearly free because the multiply units set the pace.
enum class Aside {
  kNothing,
  kCopy,       // writes the rows of b that it reads to `copy`, one behind the other
  kFetch,      // asks for the panel of b that is read next
  kFetchRows,  // asks for the rows of a that are read next
};
template <class T>
struct OnTheSide {
  Aside what = Aside::kNothing;
  T* copy = nullptr;
  // Step p of the tile asks for the lines at next + (p & mask) * step_bytes + (p >> shift) * 64 and row_bytes
  // behind: of a panel stored transposed, two rows a step and then the next line of each; else the rows that
  // become row p of the copy, or both lines of the one that is read in place. Of rows of a: lines of all of
  // them, row_bytes apart, whenever the tile comes to a next line of its own.
  const char* next = nullptr;
  int64_t row_bytes = 0, step_bytes = 0, mask = 0;
  int shift = 0;
};
// Factors in a cache line.
template <class T>
inline constexpr int64_t kLineFactors = 64 / static_cast<int64_t>(sizeof(T));

// One register tile: R rows, V vectors wide, k products deep. kAcross: a's element (i,p) is a[p * lda + i],
// else a[i * lda + p]. b's row p starts at b + p * ldb and holds V whole vectors.
template <class T, int R, int V, bool kAcross, Aside kAside>
void multiply_tile(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, const OnTheSide<T>& aside,
                   const Destination<T>& to) {
  constexpr bool kCopy = kAside == Aside::kCopy;
  T* copy = aside.copy;
  Vector<Sum<T>> sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) sum[i][j] = Vector<Sum<T>>{};
  }
  // Three rows share one address register: base, base + lda, base + 2 lda. An empty a may be null.
  const T* base[(R + 2) / 3];
#pragma GCC unroll 16
  for (int g = 0; g < (R + 2) / 3; ++g) base[g] = k == 0 ? a : a + (kAcross ? 3 * g : 3 * g * lda);
    // The tile of c is asked for now and needed k steps later.
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) __builtin_prefetch(to.c + i * to.ldc + j * kLanes<T>, 1);
  }
  for (int64_t p = 0; p < k; ++p) {
    Vector<T> right[V];
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) {
      right[j] = load(b + j * kLanes<T>);
      if constexpr (kCopy) {
        __builtin_prefetch(b + kRowsAhead * ldb + j * kLanes<T>, 0, 2);
        store(copy + j * kLanes<T>, right[j]);
      }
    }
    if constexpr (kCopy) copy += V * kLanes<T>;
    if constexpr (kAside == Aside::kFetch) {
      const char* const line = aside.next + (p & aside.mask) * aside.step_bytes + (p >> aside.shift) * 64;
      __builtin_prefetch(line, 0, 2);
      __builtin_prefetch(line + aside.row_bytes, 0, 2);
    }
    if constexpr (kAside == Aside::kFetchRows) {
      if (p % kLineFactors<T> == 0) {
        const char* line = aside.next + p * static_cast<int64_t>(sizeof(T));
        for (int i = 0; i < R; ++i, line += aside.row_bytes) __builtin_prefetch(line, 0, 2);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vector<T> left = broadcast(kAcross ? a[i] : base[i / 3][(i % 3) * lda]);
#pragma GCC unroll 2
      for (int j = 0; j < V; ++j) sum[i][j] = multiply_add(left, right[j], sum[i][j]);
    }
    if constexpr (kAcross) {
      a += lda;
    } else {
#pragma GCC unroll 16
      for (int g = 0; g < (R + 2) / 3; ++g) ++base[g];
    }
    b += ldb;
  }
  // Asked once a column of vectors, not for each: 161 GFLOP/s against 153 at 768x128x384.
  Sum<T>* const c = to.c;
  const int64_t ldc = to.ldc, columns = to.columns;
  const bool add = to.add;
  const Sum<T>* const bias = to.bias;
#pragma GCC unroll 2
  for (int j = 0; j < V; ++j) {
    const int64_t count = std::min<int64_t>(columns - j * kLanes<T>, kLanes<T>);
    const bool whole = count == kLanes<T>;
    Sum<T>* const column = c + j * kLanes<T>;
    if (add && whole) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i][j] = load(column + i * ldc) + sum[i][j];
    } else if (add) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i][j] = load_first(column + i * ldc, count) + sum[i][j];
    }
    if (bias) {
      const Vector<Sum<T>> term = load_first(bias + j * kLanes<T>, count);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i][j] = sum[i][j] + term;
    }
    if (whole) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) store(column + i * ldc, sum[i][j]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) store_first(column + i * ldc, count, sum[i][j]);
    }
  }
  // Of what has been stored: sums that live across its calls would be on the stack in the loop above, too.
  for (int i = 0; to.activation != Activation::kNone && i < R; ++i) {
    for (int64_t j = 0; j < columns; j += kLanes<T>) {
      const int64_t count = std::min<int64_t>(columns - j, kLanes<T>);
      Sum<T>* const at = c + i * ldc + j;
      store_first(at, count, activate<Sum<T>>(to.activation, load_first(at, count)));
    }
  }
}

template <class T>
using TileKernel = void (*)(int64_t, const T*, int64_t, const T*, int64_t, const OnTheSide<T>&,
                            const Destination<T>&);

template <class T, bool kAcross, int V, Aside kAside, int... i>
inline TileKernel<T> tile_kernel(int rows, std::integer_sequence<int, i...>) {
  constexpr TileKernel<T> table[kRows] = {multiply_tile<T, i + 1, V, kAcross, kAside>...};
  return table[rows - 1];
}

// Copies and fetches of b: two vectors only. Fetches of rows: of an a that is not read across.
template <class T>
inline TileKernel<T> tile_kernel(bool across, int rows, int vectors, Aside aside) {
  constexpr std::make_integer_sequence<int, kRows> all;
  switch (aside) {
    case Aside::kCopy:
      return across ? tile_kernel<T, true, 2, Aside::kCopy>(rows, all)
                    : tile_kernel<T, false, 2, Aside::kCopy>(rows, all);
    case Aside::kFetch:
      return across ? tile_kernel<T, true, 2, Aside::kFetch>(rows, all)
                    : tile_kernel<T, false, 2, Aside::kFetch>(rows, all);
    case Aside::kFetchRows:
      return vectors == 1 ? tile_kernel<T, false, 1, Aside::kFetchRows>(rows, all)
                          : tile_kernel<T, false, 2, Aside::kFetchRows>(rows, all);
    case Aside::kNothing:
      break;
  }
  if (across) {
    return vectors == 1 ? tile_kernel<T, true, 1, Aside::kNothing>(rows, all)
                        : tile_kernel<T, true, 2, Aside::kNothing>(rows, all);
  }
  return vectors == 1 ? tile_kernel<T, false, 1, Aside::kNothing>(rows, all)
                      : tile_kernel<T, false, 2, Aside::kNothing>(rows, all);
}

}  // namespace lockstep
