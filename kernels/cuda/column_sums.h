// Reductions down the columns of row-major arrays, in an order that the extents alone define.
//
// Rows are cut into segments. In a segment, every R-th row goes to the same thread, which adds them one after
// the other; the R threads of a column are combined by a binary tree. Segments are reduced in the same way
// until one is left.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/cuda/dialect.h"
#include "kernels/cuda/division.h"
#include "kernels/cuda/flat.h"

namespace lockstep {

// How (outer, rows, columns) is cut, a thread having vectors of kLanes columns.
struct ColumnCut {
  int64_t outer, rows, columns;
  int64_t across;    // vectors side by side in a block
  int64_t stacked;   // threads of a block on the same vector, R
  int64_t blocks;    // side by side in a row
  int64_t segment;   // rows
  int64_t segments;  // of one slice of outer
  Divisor by_blocks, by_segments;

  ColumnCut(int64_t outer_, int64_t rows_, int64_t columns_, int lanes)
      : outer(outer_), rows(rows_), columns(columns_) {
    const int64_t vectors = columns / lanes;
    across = std::min<int64_t>(vectors, kWarp);
    blocks = (vectors + across - 1) / across;
    stacked = kFlatThreads / across;
    // Short chains of additions are exact and many; longer ones only where there are blocks enough for any
    // device.
    constexpr int64_t kManyBlocks = 2048, kShortest = 4, kLongest = 64;
    const int64_t chain = std::clamp(rows / stacked * blocks * outer / kManyBlocks, kShortest, kLongest);
    segment = stacked * chain;
    segments = std::max<int64_t>(1, (rows + segment - 1) / segment);
    by_blocks = Divisor(blocks);
    by_segments = Divisor(segments);
  }
};

// Vectors that fit the columns: whole ones of S, or single elements.
template <class S>
int column_lanes(int64_t columns) {
  return columns % Vector<S>::kLanes == 0 ? Vector<S>::kLanes : 1;
}

// Room, in numbers, that column_reduce needs for kSums results; 0 where one pass does.
template <class S>
int64_t column_room(int sums, int64_t outer, int64_t rows, int64_t columns) {
  const ColumnCut cut(outer, rows, columns, column_lanes<S>(columns));
  if (cut.segments == 1) return 0;
  return sums * outer * cut.segments * columns +
         column_room<Accumulation<S>>(sums, outer, cut.segments, columns);
}

// results[k][outer, segment, column] = combination over the segment's rows of term k.
template <class Op, int N, class Term>
__global__ void __launch_bounds__(kFlatThreads, 2)
    column_kernel(ColumnCut cut, Term term, std::array<typename Term::T*, Term::kSums> results) {
  using T = typename Term::T;
  constexpr int kSums = Term::kSums;
  LOCKSTEP_SHARED(T, shared, [kSums * N][kFlatThreads]);
  const uint32_t slice = cut.by_blocks.quotient(blockIdx.x), outer = cut.by_segments.quotient(slice);
  const int64_t block = blockIdx.x - slice * cut.by_blocks.divisor;
  const int64_t segment = slice - outer * cut.by_segments.divisor;
  const int thread = static_cast<int>(threadIdx.x), across = static_cast<int>(cut.across),
            stacked = static_cast<int>(cut.stacked);
  const int stack = thread / across;
  const int64_t column = (block * across + (thread - stack * across)) * N;
  const bool works = stack < stacked && column < cut.columns;
  T total[kSums][N];
  LOCKSTEP_UNROLL
  for (int k = 0; k < kSums; ++k) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) total[k][j] = Op::template neutral<T>();
  }
  const auto add_rows = [&]<bool kWhole>(std::bool_constant<kWhole>) {
    const int64_t begin = segment * cut.segment;
    const int64_t end = begin + cut.segment < cut.rows ? begin + cut.segment : cut.rows;
    LOCKSTEP_UNROLL_BY(4)
    for (int64_t row = begin + stack; row < end; row += stacked) {
      T values[kSums][N];
      const int64_t outer_row = outer * cut.rows + row;
      term.template load<kWhole, N>(outer_row * cut.columns + column, outer_row, column, values);
      LOCKSTEP_UNROLL
      for (int k = 0; k < kSums; ++k) {
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) total[k][j] = Op::combine(total[k][j], values[k][j]);
      }
    }
  };
  // Decided once: branches between the loads of several rows would make each wait for the one before it.
  if (works && N > 1 && term.vectors) {
    add_rows(std::true_type{});
  } else if (works) {
    add_rows(std::false_type{});
  }
  LOCKSTEP_UNROLL
  for (int k = 0; k < kSums; ++k) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) shared[k * N + j][thread] = total[k][j];
  }
  int half = 1;
  while (2 * half < stacked) half *= 2;
  for (; half > 0; half /= 2) {
    __syncthreads();
    if (works && stack < half && stack + half < stacked) {
      LOCKSTEP_UNROLL
      for (int k = 0; k < kSums * N; ++k) {
        shared[k][thread] = Op::combine(shared[k][thread], shared[k][thread + half * across]);
      }
    }
  }
  if (works && stack == 0) {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kSums; ++k) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) results[k][slice * cut.columns + column + j] = shared[k * N + j][thread];
    }
  }
}

// What is reduced. Term::load<kWhole, N>(index, row, column, values): the kSums numbers of each of N elements
// from `index` on, which lie at (row, column), rows counted over outer too. This one: the elements of kArrays
// arrays themselves.
template <class S_, int kArrays>
struct ColumnElements {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = kArrays;
  const S* arrays[kArrays];
  bool vectors;

  template <bool kWhole, int N>
  LOCKSTEP_DEVICE void load(int64_t index, int64_t, int64_t, T (&values)[kSums][N]) const {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kArrays; ++k) {
      const Vector<S, N> stored = load_elements<kWhole, N>(arrays[k] + index);
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) values[k][j] = widen(stored.lane[j]);
    }
  }
};

// results[k][outer, column] = combination over the rows of (outer, rows, columns) of term k. `room`:
// column_room numbers.
template <class Op, class Term, size_t kSums = Term::kSums>
void column_reduce(cudaStream_t stream, int64_t outer, int64_t rows, int64_t columns, const Term& term,
                   typename Term::T* room, const std::array<typename Term::T*, kSums>& results) {
  using S = typename Term::S;
  using T = typename Term::T;
  const int lanes = column_lanes<S>(columns);
  const ColumnCut cut(outer, rows, columns, lanes);
  std::array<T*, kSums> out = results;
  if (cut.segments > 1) {
    for (T*& partials : out) {
      partials = room;
      room += outer * cut.segments * columns;
    }
  }
  const unsigned grid = blocks_for(outer * cut.segments * cut.blocks, 1);
  if (lanes > 1) {
    LOCKSTEP_LAUNCH((column_kernel<Op, Vector<S>::kLanes, Term>), grid, kFlatThreads, 0, stream, cut, term,
                    out);
  } else {
    LOCKSTEP_LAUNCH((column_kernel<Op, 1, Term>), grid, kFlatThreads, 0, stream, cut, term, out);
  }
  if (cut.segments == 1) return;
  ColumnElements<T, static_cast<int>(kSums)> partials;
  partials.vectors = true;
  for (size_t k = 0; k < kSums; ++k) {
    partials.arrays[k] = out[k];
    partials.vectors = partials.vectors && aligned_to(16, out[k]);
  }
  column_reduce<Op>(stream, outer, cut.segments, columns, partials, room, results);
}

}  // namespace lockstep
