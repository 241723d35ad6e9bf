// Reductions down the columns of row-major arrays, in an order that the extents alone define.
//
// Rows are cut into segments. In a segment, every R-th row goes to the same thread, which takes them in one
// after the other; the R threads of a column are combined by a binary tree. The segments' results are reduced
// in the same way until one is left.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lockstep/kernels/cuda/dialect.h"
#include "lockstep/kernels/cuda/division.h"
#include "lockstep/kernels/cuda/flat.h"

namespace lockstep {

// How (outer, rows, columns) is cut, a thread having vectors of so many columns, of which it loads so many
// rows ahead, and a multiprocessor room for so many blocks.
struct ColumnCut {
  int64_t outer, rows, columns;
  int64_t across;    // vectors side by side in a block
  int64_t stacked;   // threads of a block on the same vector, R
  int64_t blocks;    // side by side in a row
  int64_t segment;   // rows
  int64_t segments;  // of one slice of outer
  Divisor by_blocks, by_segments;

  ColumnCut(int64_t outer_, int64_t rows_, int64_t columns_, int lanes, int resident, int ahead)
      : outer(outer_), rows(rows_), columns(columns_) {
    // Blocks: about as many as are worked on at a time, so that all end together: a second turn for a few of
    // them costs as much as one for all. Fewer where a thread's rows would be few, more where they
    // would be so many that sums lose digits.
    constexpr int64_t kFew = 4, kShortest = 16, kLongest = 128;  // of a thread
    const int64_t at_work = int64_t{kMultiprocessors} * resident;
    const int64_t vectors = columns / lanes;
    const auto arrange = [&](int64_t width) {
      across = std::min<int64_t>(vectors, width);
      blocks = (vectors + across - 1) / across;
      stacked = kFlatThreads / across;
    };
    // Few rows: narrow blocks, many threads on a column, so that one pass is enough.
    int64_t width = kWarp;
    arrange(width);
    while (width > 2 && rows > stacked * kFew && 2 * blocks * outer <= at_work) arrange(width /= 2);
    if (rows > stacked * kShortest) arrange(kWarp);
    const int64_t wanted = stacked * std::max<int64_t>(1, at_work / (blocks * outer));  // chains
    const int64_t chain = std::clamp((rows + wanted - 1) / wanted, kShortest, kLongest);
    segment = stacked * ((chain + ahead - 1) / ahead * ahead);  // whole groups of rows
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

// Room, in numbers, that column_reduce of a Work needs for its segments' results; 0 where one pass does.
template <class Work>
int64_t column_room(int64_t outer, int64_t rows, int64_t columns) {
  const ColumnCut cut(outer, rows, columns, column_lanes<typename Work::S>(columns), Work::kResident,
                      Work::kAhead);
  if (cut.segments == 1) return 0;
  return Work::kSums * outer * cut.segments * columns +
         column_room<typename Work::Partials>(outer, cut.segments, columns);
}

// add(stored) of a thread's rows first, first + step, ... below end, in this order, stored = load(index,
// row), index that of the row's element at `column`. kAhead rows at a time are loaded before one is used;
// what is left over is such a group as well, in which the first row stands in for those beyond the end.
template <int kAhead, class Load, class Add>
LOCKSTEP_DEVICE void for_rows(int64_t first, int64_t end, int step, int64_t columns, int64_t column,
                              const Load& load, const Add& add) {
  const int64_t stride = static_cast<int64_t>(step) * columns;
  const int count = static_cast<int>((end - first + step - 1) / step);
  int64_t index = first * columns + column;
  int done = 0;
  decltype(load(first, first)) stored[kAhead];
  const auto load_group = [&](int rows) {
    LOCKSTEP_UNROLL
    for (int a = 0; a < kAhead; ++a) {
      const int own = a < rows ? a : 0;
      stored[a] = load(index + own * stride, first + static_cast<int64_t>(done + own) * step);
    }
  };
  LOCKSTEP_UNROLL_BY(1)
  for (; done + kAhead <= count; done += kAhead, index += kAhead * stride) {
    load_group(kAhead);
    LOCKSTEP_UNROLL
    for (int a = 0; a < kAhead; ++a) add(stored[a]);
  }
  if (done == count) return;
  load_group(count - done);
  LOCKSTEP_UNROLL
  for (int a = 0; a < kAhead; ++a) {
    if (done + a < count) add(stored[a]);
  }
}

// One pass. Work says what is combined, kSums numbers a column in the type T, of elements of type S:
//   start(total): what nothing combines to;
//   add_rows<kWhole, N>(first, end, step, columns, column, total): rows first, first + step, ... below end,
//     counted over outer too and at least one, of N columns; kWhole: in vectors, which vectors() allows;
//   combine(a, b): a becomes a and b together;
//   Partials: the Work for results of segments, of_partials(arrays) one on arrays of them;
//   kResident: blocks that a multiprocessor has room for;
//   kAhead: rows of a thread that are under way together. On an H200, 64 to 128 KiB a multiprocessor do best.
// out(index, column, numbers) takes what comes of a segment and column; index: in (outer, segments, columns).
template <class Work, int N, class Out>
__global__ void __launch_bounds__(kFlatThreads, Work::kResident)
    column_kernel(ColumnCut cut, Work work, Out out) {
  using T = typename Work::T;
  constexpr int kSums = Work::kSums;
  LOCKSTEP_SHARED(T, shared, [kSums * N][kFlatThreads / 2]);
  const uint32_t slice = cut.by_blocks.quotient(blockIdx.x), outer = cut.by_segments.quotient(slice);
  const int64_t block = blockIdx.x - slice * cut.by_blocks.divisor;
  const int64_t segment = slice - outer * cut.by_segments.divisor;
  const int thread = static_cast<int>(threadIdx.x), across = static_cast<int>(cut.across),
            stacked = static_cast<int>(cut.stacked);
  const int stack = thread / across;
  const int64_t column = (block * across + (thread - stack * across)) * N;
  const bool works = stack < stacked && column < cut.columns;
  const int64_t begin = segment * cut.segment;
  const int64_t end = begin + cut.segment < cut.rows ? begin + cut.segment : cut.rows;
  T total[kSums][N];
  Work::template start<N>(total);
  // Decided once: branches between the loads of several rows would make each wait for the one before it.
  if (works && begin + stack < end) {
    const int64_t first = outer * cut.rows + begin + stack, last = outer * cut.rows + end;
    if (N > 1 && work.vectors()) {
      work.template add_rows<true, N>(first, last, stacked, cut.columns, column, total);
    } else {
      work.template add_rows<false, N>(first, last, stacked, cut.columns, column, total);
    }
  }
  // The upper half of the threads of a column, at most as many as the lower one, leaves its numbers to that.
  int half = 1;
  while (2 * half < stacked) half *= 2;
  for (; half > 0; half /= 2) {
    if (stack >= half && stack < 2 * half && stack < stacked) {
      LOCKSTEP_UNROLL
      for (int k = 0; k < kSums; ++k) {
        LOCKSTEP_UNROLL
        for (int j = 0; j < N; ++j) shared[k * N + j][thread - half * across] = total[k][j];
      }
    }
    __syncthreads();
    if (stack < half && stack + half < stacked) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) {
        T own[kSums], other[kSums];
        LOCKSTEP_UNROLL
        for (int k = 0; k < kSums; ++k) own[k] = total[k][j], other[k] = shared[k * N + j][thread];
        Work::combine(own, other);
        LOCKSTEP_UNROLL
        for (int k = 0; k < kSums; ++k) total[k][j] = own[k];
      }
    }
    __syncthreads();
  }
  if (works && stack == 0) {
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) {
      T numbers[kSums];
      LOCKSTEP_UNROLL
      for (int k = 0; k < kSums; ++k) numbers[k] = total[k][j];
      out(slice * cut.columns + column + j, column + j, numbers);
    }
  }
}

// Terms of sums. Term::fetch<kWhole, N>(index, row): what N elements from `index` on, in a row counted over
// outer too, need as it lies in memory; Term::widen_all(stored, column, values): the kSums numbers of each.
// kResident, kAhead: see Work. This one: the elements of kArrays arrays themselves.
template <class S_, int kArrays>
struct ColumnElements {
  using S = S_;
  using T = Accumulation<S>;
  static constexpr int kSums = kArrays, kResident = 4, kAhead = 8 / kArrays;
  const S* arrays[kArrays];
  bool vectors;

  template <int N>
  struct Stored {
    Vector<S, N> arrays[kArrays];
  };
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE Stored<N> fetch(int64_t index, int64_t) const {
    Stored<N> stored;
    LOCKSTEP_UNROLL
    for (int k = 0; k < kArrays; ++k) stored.arrays[k] = load_elements<kWhole, N>(arrays[k] + index);
    return stored;
  }
  template <int N>
  LOCKSTEP_DEVICE void widen_all(const Stored<N>& stored, int64_t, T (&values)[kSums][N]) const {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kArrays; ++k) widen_vector(stored.arrays[k], values[k]);
  }
};

// Numbers of a term combined by Op, each by itself.
template <class Op, class Term>
struct ColumnSums {
  using S = typename Term::S;
  using T = typename Term::T;
  using Partials = ColumnSums<Op, ColumnElements<T, Term::kSums>>;
  static constexpr int kSums = Term::kSums, kResident = Term::kResident, kAhead = Term::kAhead;
  Term term;

  LOCKSTEP_DEVICE bool vectors() const { return term.vectors; }
  template <int N>
  LOCKSTEP_DEVICE static void start(T (&total)[kSums][N]) {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kSums; ++k) {
      LOCKSTEP_UNROLL
      for (int j = 0; j < N; ++j) total[k][j] = Op::template neutral<T>();
    }
  }
  template <bool kWhole, int N>
  LOCKSTEP_DEVICE void add_rows(int64_t first, int64_t end, int step, int64_t columns, int64_t column,
                                T (&total)[kSums][N]) const {
    for_rows<kWhole ? kAhead : 1>(
        first, end, step, columns, column,
        [of = term](int64_t index, int64_t row) { return of.template fetch<kWhole, N>(index, row); },
        [&, of = term](const auto& stored) {
          T values[kSums][N];
          of.widen_all(stored, column, values);
          LOCKSTEP_UNROLL
          for (int k = 0; k < kSums; ++k) {
            LOCKSTEP_UNROLL
            for (int j = 0; j < N; ++j) total[k][j] = Op::combine(total[k][j], values[k][j]);
          }
        });
  }
  LOCKSTEP_DEVICE static void combine(T (&a)[kSums], const T (&b)[kSums]) {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kSums; ++k) a[k] = Op::combine(a[k], b[k]);
  }
  static Partials of_partials(T* const (&arrays)[kSums]) {
    Partials work;
    work.term.vectors = true;
    for (int k = 0; k < kSums; ++k) {
      work.term.arrays[k] = arrays[k];
      work.term.vectors = work.term.vectors && aligned_to(16, arrays[k]);
    }
    return work;
  }
};

// Results as they are, an array of each number.
template <class T, int kSums>
struct StoreNumbers {
  T* arrays[kSums];
  LOCKSTEP_DEVICE void operator()(int64_t index, int64_t, const T (&numbers)[kSums]) const {
    LOCKSTEP_UNROLL
    for (int k = 0; k < kSums; ++k) arrays[k][index] = numbers[k];
  }
};

// out(index, column, numbers) of the combination over the rows of (outer, rows, columns); index: in (outer,
// columns). `room`: column_room numbers.
template <class Work, class Out>
void column_reduce(cudaStream_t stream, int64_t outer, int64_t rows, int64_t columns, const Work& work,
                   typename Work::T* room, const Out& out) {
  using S = typename Work::S;
  const int lanes = column_lanes<S>(columns);
  const ColumnCut cut(outer, rows, columns, lanes, Work::kResident, Work::kAhead);
  const unsigned grid = blocks_for(outer * cut.segments * cut.blocks, 1);
  const auto pass = [&]<class To>(const To& to) {
    if (lanes > 1) {
      LOCKSTEP_LAUNCH((column_kernel<Work, Vector<S>::kLanes, To>), grid, kFlatThreads, 0, stream, cut, work,
                      to);
    } else {
      LOCKSTEP_LAUNCH((column_kernel<Work, 1, To>), grid, kFlatThreads, 0, stream, cut, work, to);
    }
  };
  if (cut.segments == 1) return pass(out);
  StoreNumbers<typename Work::T, Work::kSums> partials;
  for (auto& array : partials.arrays) {
    array = room;
    room += outer * cut.segments * columns;
  }
  pass(partials);
  column_reduce(stream, outer, cut.segments, columns, Work::of_partials(partials.arrays), room, out);
}

}  // namespace lockstep
