// The matrix product on one thread: register tiles over blocks of k, operands copied only where that pays.
//
// The layering is Goto's (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008):
// a block of b (kDepth x kWidth) stays in the second-level cache, a panel of a (kRows x kDepth) in the first,
// and a tile of c (kRows x two vectors) in registers. On one Zen 4 core at 3.7 GHz the register tile alone
// reaches 118 of 118 GFLOP/s.
#include "kernels/cpu/matmul_block.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/cpu/elements.h"
#include "kernels/cpu/matrix_copy.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector.h"
#include "kernels/math/elementary.h"

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
// Columns of b that are copied at a time.
template <class T>
constexpr int64_t kWidth = 1536 / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t kPanel = kVectors* kLanes<T>;

// Copies of a up to this size are kept for all blocks of columns; they are read one behind the other, from the
// last-level cache at worst.
constexpr int64_t kKeptBytes = int64_t{2} << 20;

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
Vector<T> activate(Activation activation, Vector<T> x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x < T{0} ? Vector<T>{} : x;  // this way round NaN passes
    case Activation::kGelu:
      return gelu<T>(x);
  }
  return x;
}

// One register tile: R rows, V vectors wide, k products deep. kAcross: a's element (i,p) is a[p * lda + i],
// else a[i * lda + p]. b's row p starts at b + p * ldb and holds V whole vectors. kCopy: the rows of b are
// also written to `copy`, one behind the other. That is nearly free here, where the multiply units set the
// pace.
template <class T, int R, int V, bool kAcross, bool kCopy>
void multiply_tile(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* copy,
                   const Destination<T>& to) {
  Vector<Sum<T>> sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < V; ++j) sum[i][j] = Vector<Sum<T>>{};
  }
  // Three rows share one address register: base, base + lda, base + 2 lda.
  const T* base[(R + 2) / 3];
#pragma GCC unroll 16
  for (int g = 0; g < (R + 2) / 3; ++g) base[g] = a + (kAcross ? 3 * g : 3 * g * lda);
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
using TileKernel = void (*)(int64_t, const T*, int64_t, const T*, int64_t, T*, const Destination<T>&);

template <class T, bool kAcross, int... i>
constexpr TileKernel<T> tile_kernel(int rows, int vectors, bool copy, std::integer_sequence<int, i...>) {
  constexpr TileKernel<T> table[3][kRows] = {{multiply_tile<T, i + 1, 1, kAcross, false>...},
                                             {multiply_tile<T, i + 1, 2, kAcross, false>...},
                                             {multiply_tile<T, i + 1, 2, kAcross, true>...}};
  return table[copy ? 2 : vectors - 1][rows - 1];
}

// copy: two vectors only.
template <class T>
TileKernel<T> tile_kernel(bool across, int rows, int vectors, bool copy) {
  constexpr std::make_integer_sequence<int, kRows> all;
  return across ? tile_kernel<T, true>(rows, vectors, copy, all)
                : tile_kernel<T, false>(rows, vectors, copy, all);
}

// A matrix that will be read soon, asked for in shares, so that it arrives while the units multiply.
template <class T>
class Ahead {
 public:
  Ahead() = default;
  Ahead(const T* x, int64_t rows, int64_t columns, int64_t ldx)
      : x_(x), row_lines_((columns + kLine - 1) / kLine), lines_(rows * row_lines_), ldx_(ldx) {}

  // Asks for the share `index` of `shares`.
  void fetch(int64_t index, int64_t shares) const {
    if (lines_ == 0) return;
    int64_t line = lines_ * index / shares;
    const int64_t end = lines_ * (index + 1) / shares;
    int64_t row = line / row_lines_, at = line % row_lines_;
    for (; line < end; ++line) {
      __builtin_prefetch(x_ + row * ldx_ + at * kLine, 0, 2);
      if (++at == row_lines_) {
        at = 0;
        ++row;
      }
    }
  }

 private:
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  const T* x_ = nullptr;
  int64_t row_lines_ = 0, lines_ = 0, ldx_ = 0;
};

int64_t blocks_of(int64_t extent, int64_t longest) {
  return std::max<int64_t>(1, (extent + longest - 1) / longest);
}

}  // namespace

template <class In, class Out>
void multiply(const Product<In, Out>& product) {
  const auto& [m, n, k, a, lda, transpose_a, b, ldb, transpose_b, c, ldc, bias, activation] = product;
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
  const int64_t width_blocks = blocks_of(n, kWidth<T>);
  const int64_t row_panels = blocks_of(m, kRows);
  const int64_t longest =
      ((factors + depth_blocks - 1) / depth_blocks + kDepthStep - 1) / kDepthStep * kDepthStep;
  const int64_t widest = blocks_of((n + width_blocks - 1) / width_blocks, panel) * panel;

  // b is copied when at least five row panels read it; the first of them reads it in place and copies on the
  // way: 109 GFLOP/s at 64x512x512 (m,k,n) against 98 with a copy made beforehand. Rows of up to 1 KiB are
  // close enough in place. a is copied when more than four column panels read it, so that its panel is one
  // stream instead of 14 rows of which each tile misses the first lines: 98 against 93 GFLOP/s at
  // 256x768x768. What is not stored as it is multiplied is always copied, but for whole pairs along rows of
  // a.
  const bool pairs_in_place = group == 2 && !transpose_a && k % 2 == 0 && lda % 2 == 0 &&
                              reinterpret_cast<uintptr_t>(a) % sizeof(T) == 0;
  const bool copy_b = !converts && !transpose_b && row_panels >= 5 && ldb > 256;
  const bool copy_a =
      (converts && !pairs_in_place) || (n > 4 * panel && (converts || !(transpose_a && lda <= 256)));
  constexpr int64_t a_stride = (kRows + lanes - 1) / lanes * lanes;
  // Where b has several blocks of columns, a small a is copied once for all of them instead of once for each:
  // 2 to 4% at 128x2048x2048.
  const int64_t whole_a = row_panels * a_stride * factors;
  const bool keep_a = copy_a && width_blocks > 1 && whole_a * static_cast<int64_t>(sizeof(T)) <= kKeptBytes;
  thread_local Scratch scratch;
  T* const copied_b = scratch.get<T>(longest * widest + (keep_a ? whole_a : longest * a_stride));
  T* const copies_of_a = copied_b + longest * widest;
  // Sums that are to be rounded: of one tile, or of all rows where a block of k adds to the one before.
  const int64_t sums_stride = depth_blocks == 1 ? panel : widest;
  thread_local Scratch sums_scratch;
  Sum<T>* const sums =
      rounds ? sums_scratch.get<Sum<T>>((depth_blocks == 1 ? kRows : m) * sums_stride) : nullptr;

  const auto b_at = [&](int64_t p, int64_t j) {
    return b + (transpose_b ? j * ldb + p * group : p * group * ldb + j);
  };
  const auto a_at = [&](int64_t i, int64_t p) {
    return a + (transpose_a ? p * group * lda + i : i * lda + p * group);
  };

  for (int64_t column = 0; column < n; column += widest) {
    const int64_t width = std::min(widest, n - column);
    const int64_t column_panels = blocks_of(width, panel);
    for (int64_t block = 0, from = 0; block < depth_blocks; ++block) {
      const int64_t depth = std::min(longest, factors - from);
      const int64_t elements = std::min(depth * group, k - from * group);
      const bool first = block == 0, last = block + 1 == depth_blocks;
      for (int64_t row_panel = 0, row = 0; row_panel < row_panels; ++row_panel) {
        const int64_t rows = m / row_panels + (row_panel < m % row_panels ? 1 : 0);
        const T* left = reinterpret_cast<const T*>(a_at(row, from));
        int64_t left_stride = lda / group;
        Ahead<In> next_a;
        T* const copied_a =
            keep_a ? copies_of_a + (from * row_panels + row_panel * depth) * a_stride : copies_of_a;
        if (keep_a && column > 0) {
          left = copied_a;
          left_stride = a_stride;
        } else if (copy_a) {
          if (transpose_a) {
            copy_padded(elements, rows, a_at(row, from), lda, copied_a, a_stride);
          } else {
            transpose_padded(rows, elements, a_at(row, from), lda, copied_a, a_stride);
          }
          left = copied_a;
          left_stride = a_stride;
          if (row + rows < m) {
            const int64_t next_rows = std::min(rows, m - row - rows);
            next_a = transpose_a ? Ahead<In>(a_at(row + rows, from), elements, rows, lda)
                                 : Ahead<In>(a_at(row + rows, from), next_rows, elements, lda);
          }
        }
        for (int64_t p = 0; p < column_panels; ++p) {
          const int64_t j = p * panel;
          const int64_t columns = std::min(panel, width - j);
          const int64_t vectors = (columns + lanes - 1) / lanes;
          const bool whole = columns == panel;
          const In* const in_place = b_at(from, column + j);
          T* const copy = copied_b + j * depth;
          // Whole vectors of a partial panel, read in place, would reach past the matrix.
          const bool read_copy =
              converts || transpose_b || columns % lanes != 0 || (copy_b && (row_panel > 0 || !whole));
          if (row_panel == 0 && transpose_b) {
            transpose_padded(columns, elements, in_place, ldb, copy, vectors * lanes);
          } else if (row_panel == 0 && read_copy) {
            copy_padded(elements, columns, in_place, ldb, copy, vectors * lanes);
          }
          next_a.fetch(p, column_panels);
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
                         copy_b && whole && row_panel == 0)(
              depth, left, left_stride, read_copy ? copy : reinterpret_cast<const T*>(in_place),
              read_copy ? vectors * lanes : ldb, copy,
              {to, to_stride, columns, !first, last && bias ? bias + column + j : nullptr,
               last ? activation : Activation::kNone});
          if constexpr (rounds) {
            for (int64_t i = 0; last && i < rows; ++i) {
              Out* const rounded = c + (row + i) * ldc + column + j;
              const Sum<T>* const sum = to + i * to_stride;
              simd_for<Sum<T>>(columns, [=](int64_t l) { rounded[l] = Out(sum[l]); });
            }
          }
        }
        row += rows;
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
