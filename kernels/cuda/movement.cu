// Rearrangements: axes in another order, blocks of rows copied between arrays.
#include <string>

#include "lockstep/core/error.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/division.h"
#include "lockstep/kernels/cuda/flat.h"
#include "lockstep/kernels/cuda/words.h"
#include "lockstep/kernels/permute_plan.h"

namespace lockstep {

namespace {

constexpr int kCopies = 4;  // units that a thread has under way

// y[second offset] = x[first offset] for every cell of the walk.
template <class Unit>
__global__ void __launch_bounds__(kFlatThreads)
    walk_copy_kernel(uint32_t cells, Walk walk, const Unit* x, Unit* y) {
  const uint32_t first = blockIdx.x * (kFlatThreads * kCopies) + threadIdx.x;
  Unit values[kCopies];
  int64_t targets[kCopies];
  LOCKSTEP_UNROLL
  for (int k = 0; k < kCopies; ++k) {
    const uint32_t cell = first + k * kFlatThreads;
    if (cell < cells) {
      const Walk::Offsets at = walk.offsets(cell);
      values[k] = x[at.first];
      targets[k] = at.second;
    }
  }
  LOCKSTEP_UNROLL
  for (int k = 0; k < kCopies; ++k) {
    if (first + k * kFlatThreads < cells) y[targets[k]] = values[k];
  }
}

// Copies cells of `unit` bytes, strides counted in them; an outer axis is cut where the walk would be too
// long.
template <class Unit>
void walk_copy(cudaStream_t stream, Walk walk, const void* x, void* y) {
  const int64_t cells = walk.cells();
  if (cells <= kLongestWalk) {
    LOCKSTEP_LAUNCH(walk_copy_kernel<Unit>, blocks_for(cells, kFlatThreads * kCopies), kFlatThreads, 0,
                    stream, static_cast<uint32_t>(cells), walk, static_cast<const Unit*>(x),
                    static_cast<Unit*>(y));
    return;
  }
  int axis = 0;
  while (walk.extents[axis].divisor == 1) ++axis;
  const int64_t extent = walk.extents[axis].divisor, half = extent / 2;
  walk.extents[axis] = Divisor(half);
  walk_copy<Unit>(stream, walk, x, y);
  walk.extents[axis] = Divisor(extent - half);
  walk_copy<Unit>(stream, walk, static_cast<const Unit*>(x) + half * walk.first_strides[axis],
                  static_cast<Unit*>(y) + half * walk.second_strides[axis]);
}

constexpr int kTile = 64;  // elements a side of the squares that a block transposes
constexpr int kTileRows = kFlatThreads / kTile;

// One exchange of two axes: y[a * y_stride + b] = x[b * x_stride + a], for every cell of the walk over the
// other axes.
struct Exchange {
  Divisor tiles_a, tiles_b;
  int64_t count_a, count_b, x_stride, y_stride;
};

// A square is read along a, turned in shared memory and written along b, so that both sides touch whole cache
// lines.
template <class Unit>
__global__ void __launch_bounds__(kFlatThreads)
    exchange_kernel(Walk walk, Exchange exchange, const Unit* x, Unit* y) {
  // A row is longer by one bank than a multiple of 32 banks, so that a column lies in 32 different ones.
  LOCKSTEP_SHARED(Unit, tile, [kTile][kTile + (sizeof(Unit) < 4 ? 4 / sizeof(Unit) : 1)]);
  const uint32_t outer_a = exchange.tiles_b.quotient(blockIdx.x);
  const uint32_t outer = exchange.tiles_a.quotient(outer_a);
  const int64_t a0 = static_cast<int64_t>(outer_a - outer * exchange.tiles_a.divisor) * kTile;
  const int64_t b0 = static_cast<int64_t>(blockIdx.x - outer_a * exchange.tiles_b.divisor) * kTile;
  const Walk::Offsets at = walk.offsets(outer);
  const int along = static_cast<int>(threadIdx.x % kTile), across = static_cast<int>(threadIdx.x / kTile);
  LOCKSTEP_UNROLL
  for (int row = 0; row < kTile; row += kTileRows) {
    const int64_t a = a0 + along, b = b0 + row + across;
    if (a < exchange.count_a && b < exchange.count_b) {
      tile[row + across][along] = x[at.first + b * exchange.x_stride + a];
    }
  }
  __syncthreads();
  LOCKSTEP_UNROLL
  for (int row = 0; row < kTile; row += kTileRows) {
    const int64_t a = a0 + row + across, b = b0 + along;
    if (a < exchange.count_a && b < exchange.count_b) {
      y[at.second + a * exchange.y_stride + b] = tile[along][row + across];
    }
  }
}

template <class Unit>
void permute_elements(cudaStream_t stream, const PermutePlan& plan, const void* x, void* y) {
  const int last = plan.rank - 1;
  const int unit = plan.unit_axis();
  Walk walk;
  if (unit == last) {
    // Rows are copied whole, in words as large as extents and addresses allow.
    size_t bytes = unit_of({address(x), address(y), static_cast<size_t>(plan.extents[last]) * sizeof(Unit)});
    const int64_t elements = static_cast<int64_t>(bytes / sizeof(Unit));
    for (int axis = 0; axis < last; ++axis) {
      walk.add_axis(plan.extents[axis], plan.input_strides[axis] / elements,
                    plan.output_strides[axis] / elements);
    }
    walk.add_axis(plan.extents[last] / elements, 1, 1);
    return dispatch_unit(bytes, [&](auto word) { walk_copy<decltype(word)>(stream, walk, x, y); });
  }
  // An exchange needs squares with something in them; else elements go one by one and the caches collect
  // them.
  constexpr int64_t kNarrow = 8;
  const int64_t count_a = plan.extents[unit], count_b = plan.extents[last];
  int64_t outer = 1;
  for (int axis = 0; axis < last; ++axis) {
    if (axis != unit) outer *= plan.extents[axis];
  }
  const int64_t tiles_a = (count_a + kTile - 1) / kTile, tiles_b = (count_b + kTile - 1) / kTile;
  if (count_a < kNarrow || count_b < kNarrow || outer * tiles_a * tiles_b > kLongestWalk) {
    for (int axis = 0; axis < plan.rank; ++axis) {
      walk.add_axis(plan.extents[axis], plan.input_strides[axis], plan.output_strides[axis]);
    }
    return walk_copy<Unit>(stream, walk, x, y);
  }
  for (int axis = 0; axis < last; ++axis) {
    if (axis != unit) walk.add_axis(plan.extents[axis], plan.input_strides[axis], plan.output_strides[axis]);
  }
  const Exchange exchange = {Divisor(tiles_a), Divisor(tiles_b),         count_a,
                             count_b,          plan.input_strides[last], plan.output_strides[unit]};
  LOCKSTEP_LAUNCH(exchange_kernel<Unit>, blocks_for(outer * tiles_a * tiles_b, 1), kFlatThreads, 0, stream,
                  walk, exchange, static_cast<const Unit*>(x), static_cast<Unit*>(y));
}

}  // namespace

void CudaBackend::permute(size_t element_size, int rank, const int64_t* extents, const int* permutation,
                          const void* x, void* y) {
  size_t bytes = element_size;
  for (int axis = 0; axis < rank; ++axis) bytes *= static_cast<size_t>(extents[axis]);
  if (bytes == 0) return;
  if (element_size > 8 || (element_size & (element_size - 1)) != 0) {
    fail(ErrorKind::kInternal,
         "permute: elements must have 1, 2, 4 or 8 bytes: " + std::to_string(element_size));
  }
  const PermutePlan plan = plan_permute(rank, extents, permutation);
  if (plan.rank <= 1) return copy(y, x, bytes);
  dispatch_unit(element_size, [&](auto unit) {
    if constexpr (sizeof(unit) <= 8) permute_elements<decltype(unit)>(stream(), plan, x, y);
  });
}

void CudaBackend::copy_rows(int64_t outer, size_t bytes, const void* x, size_t x_row_bytes, void* y,
                            size_t y_row_bytes) {
  if (bytes == 0 || outer <= 0) return;
  if (outer == 1) return copy(y, x, bytes);
  const size_t unit = unit_of({address(x), address(y), bytes, x_row_bytes, y_row_bytes});
  Walk walk;
  walk.add_axis(outer, static_cast<int64_t>(x_row_bytes / unit), static_cast<int64_t>(y_row_bytes / unit));
  walk.add_axis(static_cast<int64_t>(bytes / unit), 1, 1);
  dispatch_unit(unit, [&](auto word) { walk_copy<decltype(word)>(stream(), walk, x, y); });
}

}  // namespace lockstep
