// Table lookup and its adjoint.
//
// The adjoint adds in index order without sorting: the table's rows are cut into ranges, the indices into
// sections; a warp for each of both counts and then lists the positions whose index falls into its range, in
// order; at last a warp a row goes through its range's list.
#include <algorithm>

#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/division.h"
#include "lockstep/kernels/cuda/rows.h"
#include "lockstep/kernels/cuda/words.h"
#include "lockstep/kernels/dispatch.h"

namespace lockstep {

namespace {

// Word c of row i of y = word c of row indices[i] of the table, for row_words of them a row.
template <class Word>
__global__ void __launch_bounds__(kFlatThreads)
    lookup_kernel(uint32_t words, Divisor row_words, const Word* table, const int32_t* indices, Word* y) {
  constexpr int kWords = 4;
  const uint32_t first = blockIdx.x * (kFlatThreads * kWords) + threadIdx.x;
  Word values[kWords];
  LOCKSTEP_UNROLL
  for (int k = 0; k < kWords; ++k) {
    const uint32_t word = first + k * kFlatThreads;
    if (word < words) {
      const uint32_t row = row_words.quotient(word);
      values[k] =
          table[static_cast<int64_t>(indices[row]) * row_words.divisor + (word - row * row_words.divisor)];
    }
  }
  LOCKSTEP_UNROLL
  for (int k = 0; k < kWords; ++k) {
    if (first + k * kFlatThreads < words) y[first + k * kFlatThreads] = values[k];
  }
}

constexpr int kSections = 8;       // warps of a block
constexpr int64_t kRanges = 1024;  // at most

// How rows and indices are cut.
struct Occurrences {
  int64_t count, rows;
  int64_t range;    // table rows
  int64_t section;  // indices, a multiple of 32

  Occurrences(int64_t count_, int64_t rows_)
      : count(count_),
        rows(rows_),
        range(std::max<int64_t>(1, (rows + kRanges - 1) / kRanges)),
        section((count + kSections * kWarp - 1) / (kSections * kWarp) * kWarp) {}
  int64_t ranges() const { return (rows + range - 1) / range; }
};

// Calls function(position, found) for the positions of the calling warp's section, on all lanes alike often;
// found where the position exists and its index belongs to the block's range.
template <class F>
LOCKSTEP_DEVICE void scan_section(const Occurrences& of, const int32_t* indices, const F& function) {
  const int64_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t begin = warp * of.section,
                end = begin + of.section < of.count ? begin + of.section : of.count;
  const int64_t low = static_cast<int64_t>(blockIdx.x) * of.range, high = low + of.range;
  LOCKSTEP_UNROLL_BY(4)
  for (int64_t base = begin; base < end; base += kWarp) {
    const int64_t position = base + lane;
    const int64_t index = position < end ? indices[position] : -1;
    function(position, index >= low && index < high);
  }
}

// counts[range, section] = positions in the section whose index belongs to the range
__global__ void __launch_bounds__(kSections* kWarp)
    count_kernel(Occurrences of, const int32_t* indices, int32_t* counts) {
  int32_t found = 0;
  scan_section(of, indices, [&](int64_t, bool here) { found += here ? 1 : 0; });
  found = warp_reduce<Plus>(found);
  if (threadIdx.x % kWarp == 0) counts[blockIdx.x * kSections + threadIdx.x / kWarp] = found;
}

// positions: those of range 0 in order, then those of range 1, ...; range r ends before ends[r].
__global__ void __launch_bounds__(kSections* kWarp)
    list_kernel(Occurrences of, const int32_t* indices, const int32_t* counts, int32_t* ends,
                int32_t* positions) {
  LOCKSTEP_SHARED(int32_t, shared, [kSections]);
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int32_t before = 0;
  for (unsigned i = threadIdx.x; i < blockIdx.x * kSections; i += kSections * kWarp) before += counts[i];
  int64_t next = block_reduce<Plus, kSections * kWarp>(before, shared);
  for (unsigned section = 0; section < warp; ++section) next += counts[blockIdx.x * kSections + section];
  scan_section(of, indices, [&](int64_t position, bool here) {
    const unsigned lanes = __ballot_sync(kAllLanes, here);
    if (here) positions[next + __popc(lanes & ((1u << lane) - 1))] = static_cast<int32_t>(position);
    next += __popc(lanes);
  });
  if (lane == 0 && warp == kSections - 1) ends[blockIdx.x] = static_cast<int32_t>(next);
}

constexpr int kTogether = 4;  // rows of dy that a lane has under way

// A warp sums the rows of dy that belong to one table row, for 32 * N columns.
template <class S, int N>
__global__ void __launch_bounds__(kFlatThreads)
    gather_sum_kernel(Occurrences of, int64_t width, int64_t strips, const int32_t* indices,
                      const int32_t* ends, const int32_t* positions, const S* dy, bool adds, S* dtable) {
  using T = Accumulation<S>;
  const int64_t item = global_thread() / kWarp;
  const int64_t row = item / strips;
  if (row >= of.rows) return;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t column = ((item - row * strips) * kWarp + lane) * N;
  const int64_t range = row / of.range;
  const int32_t begin = range == 0 ? 0 : ends[range - 1], end = ends[range];
  T total[N] = {};
  bool named = false;
  for (int32_t base = begin; base < end; base += kWarp) {
    const int32_t position = base + lane < end ? positions[base + lane] : -1;
    unsigned lanes = __ballot_sync(kAllLanes, position >= 0 && indices[position] == row);
    named = named || lanes != 0;
    while (lanes != 0) {
      Vector<S, N> values[kTogether];
      bool present[kTogether];
      LOCKSTEP_UNROLL
      for (int k = 0; k < kTogether; ++k) {
        present[k] = lanes != 0;
        const int64_t source =
            __shfl_sync(kAllLanes, position, present[k] ? __ffs(static_cast<int>(lanes)) - 1 : 0);
        lanes &= lanes - 1;
        if (present[k] && column < width) values[k] = load_elements<true, N>(dy + source * width + column);
      }
      LOCKSTEP_UNROLL
      for (int k = 0; k < kTogether; ++k) {
        if (present[k] && column < width) {
          LOCKSTEP_UNROLL
          for (int j = 0; j < N; ++j) total[j] += widen(values[k].lane[j]);
        }
      }
    }
  }
  if (column >= width || (adds && !named)) return;
  S* const to = dtable + row * width + column;
  if (adds) {
    const Vector<S, N> others = load_elements<true, N>(to);
    LOCKSTEP_UNROLL
    for (int j = 0; j < N; ++j) total[j] = widen(others.lane[j]) + total[j];
  }
  store_row(to, total, true);
}

template <class S, int N>
void launch_gather_sum(cudaStream_t stream, const Occurrences& of, int64_t width, const int32_t* indices,
                       const int32_t* ends, const int32_t* positions, const S* dy, bool adds, S* dtable) {
  const int64_t strips = (width + kWarp * N - 1) / (kWarp * N);
  LOCKSTEP_LAUNCH((gather_sum_kernel<S, N>), blocks_for(of.rows * strips, kFlatThreads / kWarp), kFlatThreads,
                  0, stream, of, width, strips, indices, ends, positions, dy, adds, dtable);
}

}  // namespace

void CudaBackend::embedding(DType dtype, int64_t count, int64_t width, const void* table,
                            const int32_t* indices, void* y) {
  if (count <= 0 || width <= 0) return;
  const size_t row_bytes = static_cast<size_t>(width) * size_of(dtype);
  const size_t bytes = unit_of({address(table), address(y), row_bytes});
  const int64_t row_words = static_cast<int64_t>(row_bytes / bytes);
  dispatch_unit(bytes, [&](auto word) {
    using Word = decltype(word);
    // As many rows at a time as a word's index can count.
    const int64_t part = std::max<int64_t>(1, kLongestWalk / row_words);
    for (int64_t begin = 0; begin < count; begin += part) {
      const int64_t words = std::min(part, count - begin) * row_words;
      LOCKSTEP_LAUNCH(lookup_kernel<Word>, blocks_for(words, kFlatThreads * 4), kFlatThreads, 0, stream(),
                      static_cast<uint32_t>(words), Divisor(row_words), static_cast<const Word*>(table),
                      indices + begin, static_cast<Word*>(y) + begin * row_words);
    }
  });
}

void CudaBackend::embedding_backward(DType dtype, int64_t count, int64_t rows, int64_t width,
                                     const int32_t* indices, const void* dy, bool adds, void* dtable) {
  if (rows <= 0 || width <= 0) return;
  if (count <= 0) {
    if (!adds) fill(dtype, rows * width, dtable, 0.0);
    return;
  }
  const Occurrences of(count, rows);
  const int64_t ranges = of.ranges();
  int32_t* const counts = scratch<int32_t>(ranges * (kSections + 1) + count);
  int32_t* const ends = counts + ranges * kSections;
  int32_t* const positions = ends + ranges;
  const unsigned grid = blocks_for(ranges, 1);
  LOCKSTEP_LAUNCH(count_kernel, grid, kSections * kWarp, 0, stream(), of, indices, counts);
  LOCKSTEP_LAUNCH(list_kernel, grid, kSections * kWarp, 0, stream(), of, indices, counts, ends, positions);
  dispatch_floating("embedding_backward", dtype, [&](auto type) {
    using S = decltype(type);
    constexpr int kLanes = Vector<S>::kLanes;
    const bool vectors = width % kLanes == 0 && aligned_to(16, dy, dtable);
    const auto sum = vectors ? launch_gather_sum<S, kLanes> : launch_gather_sum<S, 1>;
    sum(stream(), of, width, indices, ends, positions, static_cast<const S*>(dy), adds,
        static_cast<S*>(dtable));
  });
}

}  // namespace lockstep
