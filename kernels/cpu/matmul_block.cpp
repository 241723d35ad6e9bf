// The matrix product on one thread: register tiles over blocks of k, operands copied only where that pays.
//
// The layering is Goto's (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008):
// a block of a (kRowPanels x kRows rows, kDepth deep) stays in the second-level cache while panels of b
// (kDepth x two vectors) go by, each multiplied with all of it, and a tile of c (kRows x two vectors) in
// registers. On one Zen 4 core at 3.7 GHz the register tile alone reaches 118 of 118 GFLOP/s.
#include "lockstep/kernels/cpu/matmul_block.h"

#include <algorithm>
#include <bit>

#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/cpu/matmul_tile.h"
#include "lockstep/kernels/cpu/matrix_copy.h"
#include "lockstep/kernels/cpu/matrix_vector.h"
#include "lockstep/kernels/cpu/narrow_product.h"
#include "lockstep/kernels/cpu/scratch.h"
#include "lockstep/kernels/cpu/vector.h"

namespace lockstep {

namespace {

// Longest block of k, and what all but the last are a multiple of: a cache line of float. Both count factors,
// which are pairs of elements where the processor multiplies bf16. Part of the result's definition, as sums
// restart with each block.
constexpr int64_t kDepth = 384;
constexpr int64_t kDepthStep = 16;
// Row panels of a block of a: up to 480 KiB.
constexpr int64_t kRowPanels = 20;
// Columns of b whose copies are kept for further blocks of a, where there are several: a is copied anew for
// each. Tiles of 14 rows mind that little, and the copies stay in the second-level cache (up to 590 KiB).
// Tiles of 6 have them four times as wide, in the third (79 against 70 GFLOP/s at 768x256x768 where a is
// stored transposed), but where sums that are to be rounded are kept beside them.
template <class T, bool kRounds>
constexpr int64_t kWidth = (kVectorRegisters == 32 || kRounds ? 1536 : 6144) /
                           static_cast<int64_t>(sizeof(T));

constexpr int64_t kLineBytes = 64;

// Rows of an a stored transposed that are copied at a time: even, as factors may be pairs of elements.
constexpr int64_t kCopiedRows = 16;

// Products of at most so many columns and at least so many rows may be computed by their transpose, so many
// rows at a time.
constexpr int64_t kTurnedColumns = 24;
constexpr int64_t kLeastTurnedRows = 64;
constexpr int64_t kTurnedRows = 512;

// Bytes of an a that is asked for ahead of its use: smaller ones are in a cache.
constexpr int64_t kFetchedBytes = int64_t{1} << 18;

// Fewest factors of a product that is computed with rows in the lanes: of fewer, putting them there and back
// takes too large a share, unless that also makes factors of what is stored.
constexpr int64_t kLeastNarrowDepth = 256;
constexpr int64_t kLeastConvertedDepth = 128;

int64_t blocks_of(int64_t extent, int64_t longest) {
  return std::max<int64_t>(1, (extent + longest - 1) / longest);
}

// Whether rows of a that are read in place are to be asked for while those before them are multiplied, so
// that memory does not wait for arithmetic: 445 us against 700 at 1000x784x10. Not where all of them go to
// the same lines of the first-level cache, from which they would drive those that are in use.
template <class In, class Out>
bool fetches_rows(const Product<In, Out>& product) {
  const int64_t bytes = product.lda * static_cast<int64_t>(sizeof(In));
  return product.m * bytes >= kFetchedBytes && bytes % 4096 != 0;
}

// Whether rows of an a that is stored as it is go to the lanes (narrow_product.h). What has to be converted
// is copied either way; of what has not, tiles read rows in place, well enough where a is in the first cache
// or few of their lanes stay empty, and squares need half of 32 registers beside the sums.
template <class In>
bool is_narrow(const Product<In, Sum<Factor<In>>>& product) {
  using T = Factor<In>;
  constexpr bool converts = sizeof(In) * kGroup<T> != sizeof(T);
  const int64_t n = product.n;
  if (product.transpose_a || n > kNarrowColumns) return false;
  if constexpr (converts) {
    if (product.k < kLeastConvertedDepth) return false;
  } else {
    const int64_t empty = blocks_of(n, kLanes<T>) * kLanes<T> - n;
    const int64_t bytes = product.m * product.k * static_cast<int64_t>(sizeof(In));
    if (kVectorRegisters < 32 || 2 * empty <= n || product.k < kLeastNarrowDepth * kGroup<T> ||
        bytes < kFetchedBytes)
      return false;
  }
  const int64_t group = narrow_vectors(n) * kLanes<T>;
  return 16 * (blocks_of(product.m, group) * group - product.m) <= product.m;
}

// op(b) as narrow products read it: factors (k, n), rows `stride` apart.
template <class In>
const Factor<In>* narrow_operand(const Product<In, Sum<Factor<In>>>& product, int64_t& stride) {
  using T = Factor<In>;
  stride = product.ldb;
  if constexpr (std::is_same_v<In, T>) {
    if (!product.transpose_b) return product.b;
  }
  stride = blocks_of(product.n, kLanes<T>) * kLanes<T>;
  thread_local Scratch scratch;
  T* const copy = scratch.get<T>(blocks_of(product.k, kGroup<T>) * stride);
  if (product.transpose_b) {
    transpose_padded(product.n, product.k, product.b, product.ldb, copy, stride);
  } else {
    copy_padded(product.k, product.n, product.b, product.ldb, copy, stride);
  }
  return copy;
}

// c by its transpose, c' = op(b)' op(a)': rows of few columns would leave lanes empty, and an a that is
// stored transposed is read in the order in which it lies. Factors of a product change places and sums keep
// their order, so the bits are the same. Rows of c lie one behind the other; nothing is added to them.
// `narrow`: is_narrow().
template <class In>
void multiply_turned(const Product<In, Sum<Factor<In>>>& product, bool narrow) {
  using S = Sum<Factor<In>>;
  constexpr int64_t lanes = kLanes<S>;
  const int64_t n = product.n;
  const int64_t widest = std::min(kTurnedRows, blocks_of(product.m, lanes) * lanes);
  thread_local Scratch scratch;
  S* const sums = scratch.get<S>(n * widest);  // (n, widest)
  int64_t operand_stride = 0;
  const Factor<In>* const operand = narrow ? narrow_operand<In>(product, operand_stride) : nullptr;
  const bool fetches = fetches_rows(product);
  for (int64_t next = 0; next < product.m; next += widest) {
    // Rather some rows twice than in the end too few for a group.
    const int64_t row = std::min(next, product.m - std::min(product.m, kLeastTurnedRows));
    const int64_t rows = std::min(widest, product.m - row);
    if (narrow) {
      multiply_narrow<In>(rows, product.m - row, n, product.k, product.a + row * product.lda, product.lda,
                          operand, operand_stride, block_of_sums<In>(product.k) / kGroup<Factor<In>>, fetches,
                          sums, widest);
    } else {
      Product<In, S> turned;
      turned.m = n;
      turned.n = rows;
      turned.k = product.k;
      turned.a = product.b;
      turned.lda = product.ldb;
      turned.transpose_a = !product.transpose_b;
      turned.b = product.a + (product.transpose_a ? row : row * product.lda);
      turned.ldb = product.lda;
      turned.transpose_b = !product.transpose_a;
      turned.c = sums;
      turned.ldc = widest;
      multiply(turned);
    }
    const bool finished = product.bias == nullptr && product.activation == Activation::kNone;
    for (int64_t j = 0; !finished && j < n; ++j) {
      for (int64_t i = 0; i < rows; i += lanes) {
        const int64_t count = std::min(lanes, rows - i);
        S* const at = sums + j * widest + i;
        Vector<S> x = load_first(at, count);
        if (product.bias) x = x + broadcast(product.bias[j]);
        store_first(at, count, activate<S>(product.activation, x));
      }
    }
    transpose_matrix(n, rows, sums, widest, product.c + row * n, n);
  }
}

}  // namespace

template <class In>
int64_t block_of_sums(int64_t k) {
  constexpr int64_t group = kGroup<Factor<In>>;
  const int64_t factors = (k + group - 1) / group, blocks = blocks_of(factors, kDepth);
  return ((factors + blocks - 1) / blocks + kDepthStep - 1) / kDepthStep * kDepthStep * group;
}

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
  const int64_t width_blocks = row_blocks == 1 ? 1 : blocks_of(n, kWidth<T, rounds>);
  const int64_t longest = block_of_sums<In>(k) / group;
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

  // Where few columns of c would leave lanes empty. And where a is stored transposed and its rows lie so far
  // apart that each step of a tile would take a few columns of another page: 15 us against 21 at 784x32x10,
  // 230 against 400 at 784x1000x10.
  if constexpr (!rounds) {
    const int64_t empty = blocks_of(n, lanes) * lanes - n;
    const bool narrow = is_narrow<In>(product);
    const bool gathered = transpose_a && n <= kTurnedColumns && (lda > 256 || 8 * empty > n);
    if ((narrow || gathered) && m >= kLeastTurnedRows && ldc == n && !accumulate) {
      return multiply_turned<In>(product, narrow);
    }
  }

  // b is copied when at least five row panels read it; the first of them reads it in place and copies on the
  // way: 109 GFLOP/s at 64x512x512 (m,k,n) against 98 with a copy made beforehand. Rows of up to 1 KiB are
  // close enough in place. a is copied when more than four column panels read it, so that its panel is one
  // stream instead of 14 rows of which each tile misses the first lines: 98 against 93 GFLOP/s at
  // 256x768x768; one that is stored transposed when two do, as its columns lie in few sets of the first-level
  // cache: 140 against 117 at 1024x512x128. What is not stored as it is multiplied is always copied, but for
  // whole pairs along rows of a.
  const bool pairs_in_place = group == 2 && !transpose_a && k % 2 == 0 && lda % 2 == 0;
  const bool copy_b = !converts && !transpose_b && row_panels >= 5 && ldb > 256;
  const bool copy_a = (converts && !pairs_in_place) ||
                      (n > (transpose_a ? panel : 4 * panel) && (converts || !(transpose_a && lda <= 256)));
  const bool fetch_rows = !transpose_a && !copy_a && n <= panel && fetches_rows(product);
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

  constexpr int line_shift = std::countr_zero(static_cast<unsigned>(kLineFactors<T>));
  const int64_t row_bytes = ldb * static_cast<int64_t>(sizeof(In));
  // A row of a panel that is read in place is two lines.
  const OnTheSide<T> fetch = {.what = Aside::kFetch,
                              .row_bytes = transpose_b || group == 2 ? row_bytes : kLineBytes,
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
        // A panel of an a that is stored as it is: at once. Where it is stored transposed its rows are read
        // whole, some at a time: a panel's share of one is part of a cache line, and of another page than
        // that of the next.
        const int64_t piece = transpose_a ? kCopiedRows : elements;
        for (int64_t p = 0; copy_a && p < elements; p += piece) {
          for (int64_t row_panel = begin; row_panel < end; ++row_panel) {
            const int64_t row = first_row(row_panel), rows = first_row(row_panel + 1) - row;
            T* const copy = copied_a + ((row_panel - begin) * depth + p / group) * a_stride;
            if (transpose_a) {
              copy_padded(std::min(piece, elements - p), rows, a_at(row, from) + p * lda, lda, copy,
                          a_stride);
            } else {
              transpose_padded(rows, elements, a_at(row, from), lda, copy, a_stride);
            }
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
            } else if ((copied_before || (!copy_b && ldb > 256)) && whole && next && begin == 0 &&
                       row_panel + 1 == end) {
              aside = fetch;
              aside.next = reinterpret_cast<const char*>(next);
            } else if (fetch_rows && !(last && row_panel + 1 == row_panels)) {
              aside.what = Aside::kFetchRows;
              aside.row_bytes = lda * static_cast<int64_t>(sizeof(In));
              aside.next = reinterpret_cast<const char*>(row_panel + 1 < row_panels ? a_at(row + rows, from)
                                                                                    : a_at(0, from + depth));
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
template int64_t block_of_sums<float>(int64_t);
template int64_t block_of_sums<double>(int64_t);
template int64_t block_of_sums<BFloat16>(int64_t);
template int64_t block_of_sums<Float16>(int64_t);

}  // namespace lockstep
