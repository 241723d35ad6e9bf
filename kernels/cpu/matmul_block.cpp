// The matrix product on one thread: register tiles over blocks of k, operands copied only where that pays.
//
// The layering is Goto's (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008):
// a block of a (kRowPanels x kRows rows, kDepth deep) stays in the second-level cache while panels of b
// (kDepth x two vectors) go by, each multiplied with all of it, and a tile of c (kRows x two vectors) in
// registers. On one Zen 4 core at 3.7 GHz the register tile alone reaches 118 of 118 GFLOP/s.
#include "lockstep/kernels/cpu/matmul_block.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/matrix_copy.h"
#include "lockstep/kernels/cpu/matrix_vector.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/cpu/vector.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep {

namespace {

// Rows of a register tile: with 32 registers 14 x 2 sums, 2 vectors of b, one of a.
constexpr int kRows = kVectorRegisters == 32 ? 14 : 6;
constexpr int kVectors = 2;
// Longest block of k, and what all but the last are a multiple of: a cache line of float. Both count factors,
// which are pairs of elements where the processor multiplies bf16. Part of the result's definition, as sums
// restart with each block.
constexpr int64_t kDepth = 384;
constexpr int64_t kDepthStep = 16;
// Row panels of a block of a: up to 480 KiB.
constexpr int64_t kRowPanels = 20;
// Columns of b whose copies are kept for further blocks of a, where there are several: up to 590 KiB.
template <class T>
constexpr int64_t kWidth = 1536 / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t kPanel = kVectors* kLanes<T>;

// Rows of b that are asked for ahead of copying them: some 450 cycles, the way to memory.
constexpr int64_t kRowsAhead = 16;

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
  kCopy,   // writes the rows of b that it reads to `copy`, one behind the other
  kFetch,  // asks for the panel of b that is to be copied soon
};
template <class T>
struct OnTheSide {
  Aside what = Aside::kNothing;
  T* copy = nullptr;
  // Step p of the tile asks for the lines at next + (p & mask) * step_bytes + (p >> shift) * 64 and row_bytes
  // behind: of a panel stored transposed, two rows a step and then the next line of each; else the rows that
  // become row p of the copy.
  const char* next = nullptr;
  int64_t row_bytes = 0, step_bytes = 0, mask = 0;
  int shift = 0;
};

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
#pragma GCC unroll 2
  for (int j = 0; j < V; ++j) {
    const int64_t count = std::min<int64_t>(to.columns - j * kLanes<T>, kLanes<T>);
    const bool whole = count == kLanes<T>;
    Vector<Sum<T>> bias{};
    if (to.bias) bias = load_first(to.bias + j * kLanes<T>, count);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      Sum<T>* const c = to.c + i * to.ldc + j * kLanes<T>;
      Vector<Sum<T>> x = sum[i][j];
      if (to.add) x = (whole ? load(c) : load_first(c, count)) + x;
      if (to.bias) x = x + bias;
      if (to.activation != Activation::kNone) x = activate<Sum<T>>(to.activation, x);
      if (whole) {
        store(c, x);
      } else {
        store_first(c, count, x);
      }
    }
  }
}

template <class T>
using TileKernel = void (*)(int64_t, const T*, int64_t, const T*, int64_t, const OnTheSide<T>&,
                            const Destination<T>&);

template <class T, bool kAcross, int... i>
constexpr TileKernel<T> tile_kernel(int rows, int vectors, Aside aside, std::integer_sequence<int, i...>) {
  constexpr TileKernel<T> table[4][kRows] = {{multiply_tile<T, i + 1, 1, kAcross, Aside::kNothing>...},
                                             {multiply_tile<T, i + 1, 2, kAcross, Aside::kNothing>...},
                                             {multiply_tile<T, i + 1, 2, kAcross, Aside::kCopy>...},
                                             {multiply_tile<T, i + 1, 2, kAcross, Aside::kFetch>...}};
  return table[aside == Aside::kCopy ? 2 : aside == Aside::kFetch ? 3 : vectors - 1][rows - 1];
}

// Something on the side: two vectors only.
template <class T>
TileKernel<T> tile_kernel(bool across, int rows, int vectors, Aside aside) {
  constexpr std::make_integer_sequence<int, kRows> all;
  return across ? tile_kernel<T, true>(rows, vectors, aside, all)
                : tile_kernel<T, false>(rows, vectors, aside, all);
}

int64_t blocks_of(int64_t extent, int64_t longest) {
  return std::max<int64_t>(1, (extent + longest - 1) / longest);
}

}  // namespace

template <class In, class Out>
void multiply(const Product<In, Out>& product) {
  const int64_t m = product.m, n = product.n, k = product.k;
  const int64_t lda = product.lda, ldb = product.ldb, ldc = product.ldc;
  const bool transpose_a = product.transpose_a, transpose_b = product.transpose_b;
  const bool accumulate = product.accumulate;
  const In *const a = product.a, *const b = product.b;
  Out* const c = product.c;
  const Accumulation<In>* const bias = product.bias;
  const Activation activation = product.activation;
  if (m == 0 || n == 0) return;
  using T = Factor<In>;
  constexpr int64_t lanes = kLanes<T>;
  constexpr int64_t panel = kPanel<T>;
  constexpr int64_t group = kGroup<T>;
  constexpr bool converts = !std::is_same_v<In, T>;
  constexpr bool rounds = !std::is_same_v<Out, Sum<T>>;

  // Equal blocks and panels: no thin remainder that would leave the multiply units waiting. Blocks of k are
  // whole cache lines, so that a transposed operand is read line by line.
  const int64_t factors = (k + group - 1) / group;
  const int64_t depth_blocks = blocks_of(factors, kDepth);
  const int64_t row_panels = blocks_of(m, kRows);
  const int64_t row_blocks = blocks_of(row_panels, kRowPanels);
  const int64_t block_panels = (row_panels + row_blocks - 1) / row_blocks;
  const int64_t width_blocks = row_blocks == 1 ? 1 : blocks_of(n, kWidth<T>);
  const int64_t longest =
      ((factors + depth_blocks - 1) / depth_blocks + kDepthStep - 1) / kDepthStep * kDepthStep;
  const int64_t widest = blocks_of((n + width_blocks - 1) / width_blocks, panel) * panel;
  if (m == 1 && k > 0 && !transpose_b && !accumulate && (!transpose_a || lda == 1)) {
    thread_local Scratch totals_scratch;
    Sum<T>* totals = nullptr;
    if constexpr (rounds) {
      totals = totals_scratch.get<Sum<T>>(n);
    } else {
      totals = c;
    }
    multiply_row(a, k, b, ldb, n, longest, totals);
    for (int64_t j = 0; j < n; j += kLanes<Sum<T>>) {
      const int64_t count = std::min<int64_t>(kLanes<Sum<T>>, n - j);
      Vector<Sum<T>> x = load_first(totals + j, count);
      if (bias) x = x + load_first(bias + j, count);
      store_first(totals + j, count, activate<Sum<T>>(activation, x));
    }
    if constexpr (rounds) simd_for<Sum<T>>(n, [=](int64_t j) { c[j] = Out(totals[j]); });
    return;
  }

  // b is copied when at least five row panels read it; the first of them reads it in place and copies on the
  // way: 109 GFLOP/s at 64x512x512 (m,k,n) against 98 with a copy made beforehand. Rows of up to 1 KiB are
  // close enough in place. a is copied when more than four column panels read it, so that its panel is one
  // stream instead of 14 rows of which each tile misses the first lines: 98 against 93 GFLOP/s at
  // 256x768x768. What is not stored as it is multiplied is always copied, but for whole pairs along rows of
  // a.
  const bool pairs_in_place = group == 2 && !transpose_a && k % 2 == 0 && lda % 2 == 0;
  const bool copy_b = !converts && !transpose_b && row_panels >= 5 && ldb > 256;
  const bool copy_a =
      (converts && !pairs_in_place) || (n > 4 * panel && (converts || !(transpose_a && lda <= 256)));
  constexpr int64_t a_stride = (kRows + lanes - 1) / lanes * lanes;
  const int64_t copied_width = row_blocks == 1 ? panel : widest;
  thread_local Scratch scratch;
  T* const copied_b = scratch.get<T>(longest * (copied_width + (copy_a ? block_panels * a_stride : 0)));
  T* const copied_a = copied_b + longest * copied_width;
  // Sums that are to be rounded: of one tile, or of all rows where a block of k adds to the one before.
  const int64_t sums_stride = depth_blocks == 1 ? panel : widest;
  thread_local Scratch sums_scratch;
  Sum<T>* const sums =
      rounds ? sums_scratch.get<Sum<T>>((depth_blocks == 1 ? kRows : m) * sums_stride) : nullptr;

  // Empty operands (k = 0) may be null, to which nothing may be added.
  const auto b_at = [&](int64_t p, int64_t j) {
    return k == 0 ? b : b + (transpose_b ? j * ldb + p * group : p * group * ldb + j);
  };
  const auto a_at = [&](int64_t i, int64_t p) {
    return k == 0 ? a : a + (transpose_a ? p * group * lda + i : i * lda + p * group);
  };
  const auto first_row = [&](int64_t row_panel) {
    return m / row_panels * row_panel + std::min(row_panel, m % row_panels);
  };

  constexpr int line_shift = std::countr_zero(static_cast<unsigned>(lanes));
  const int64_t row_bytes = ldb * static_cast<int64_t>(sizeof(In));
  const OnTheSide<T> fetch = {.what = Aside::kFetch,
                              .row_bytes = row_bytes,
                              .step_bytes = (transpose_b ? 2 : group) * row_bytes,
                              .mask = transpose_b ? lanes - 1 : -1,
                              .shift = transpose_b ? line_shift : 62};

  for (int64_t column = 0; column < n; column += widest) {
    const int64_t width = std::min(widest, n - column);
    const int64_t column_panels = blocks_of(width, panel);
    for (int64_t block = 0, from = 0; block < depth_blocks; ++block) {
      const int64_t depth = std::min(longest, factors - from);
      const int64_t elements = std::min(depth * group, k - from * group);
      const bool first = block == 0, last = block + 1 == depth_blocks;
      for (int64_t begin = 0; begin < row_panels; begin += block_panels) {
        const int64_t end = std::min(row_panels, begin + block_panels);
        for (int64_t row_panel = begin; copy_a && row_panel < end; ++row_panel) {
          const int64_t row = first_row(row_panel), rows = first_row(row_panel + 1) - row;
          T* const copy = copied_a + (row_panel - begin) * depth * a_stride;
          if (transpose_a) {
            copy_padded(elements, rows, a_at(row, from), lda, copy, a_stride);
          } else {
            transpose_padded(rows, elements, a_at(row, from), lda, copy, a_stride);
          }
        }
        for (int64_t p = 0; p < column_panels; ++p) {
          const int64_t j = p * panel;
          const int64_t columns = std::min(panel, width - j);
          const int64_t vectors = (columns + lanes - 1) / lanes;
          const bool whole = columns == panel;
          const In* const in_place = b_at(from, column + j);
          T* const copy = copied_b + (row_blocks == 1 ? 0 : j * depth);
          // Whole vectors of a partial panel, read in place, would reach past the matrix.
          const bool copied_before = converts || transpose_b || columns % lanes != 0 || (copy_b && !whole);
          if (begin == 0 && transpose_b) {
            transpose_padded(columns, elements, in_place, ldb, copy, vectors * lanes);
          } else if (begin == 0 && copied_before) {
            copy_padded(elements, columns, in_place, ldb, copy, vectors * lanes);
          }
          const In* const next = p + 1 < column_panels ? b_at(from, column + j + panel)
                                 : last                ? nullptr
                                                       : b_at(from + depth, column);
          for (int64_t row_panel = begin; row_panel < end; ++row_panel) {
            const int64_t row = first_row(row_panel), rows = first_row(row_panel + 1) - row;
            const bool read_copy = copied_before || (copy_b && row_panel > 0);
            const T* const left = copy_a ? copied_a + (row_panel - begin) * depth * a_stride
                                         : reinterpret_cast<const T*>(a_at(row, from));
            OnTheSide<T> aside;
            if (copy_b && whole && row_panel == 0) {
              aside.what = Aside::kCopy;
              aside.copy = copy;
            } else if (copied_before && whole && next && begin == 0 && row_panel + 1 == end) {
              aside = fetch;
              aside.next = reinterpret_cast<const char*>(next);
            }
            Sum<T>* to;
            int64_t to_stride;
            if constexpr (rounds) {
              to = depth_blocks == 1 ? sums : sums + row * sums_stride + j;
              to_stride = sums_stride;
            } else {
              to = c + row * ldc + column + j;
              to_stride = ldc;
            }
            tile_kernel<T>(transpose_a || copy_a, static_cast<int>(rows), static_cast<int>(vectors),
                           aside.what)(
                depth, left, copy_a ? a_stride : lda / group,
                read_copy ? copy : reinterpret_cast<const T*>(in_place), read_copy ? vectors * lanes : ldb,
                aside,
                {to, to_stride, columns, !first || accumulate, last && bias ? bias + column + j : nullptr,
                 last ? activation : Activation::kNone});
            if constexpr (rounds) {
              for (int64_t i = 0; last && i < rows; ++i) {
                Out* const rounded = c + (row + i) * ldc + column + j;
                const Sum<T>* const sum = to + i * to_stride;
                simd_for<Sum<T>>(columns, [=](int64_t l) { rounded[l] = Out(sum[l]); });
              }
            }
          }
        }
      }
      from += depth;
    }
  }
}

template void multiply(const Product<float, float>&);
template void multiply(const Product<double, double>&);
template void multiply(const Product<BFloat16, BFloat16>&);
template void multiply(const Product<BFloat16, float>&);
template void multiply(const Product<Float16, Float16>&);
template void multiply(const Product<Float16, float>&);

}  // namespace lockstep
