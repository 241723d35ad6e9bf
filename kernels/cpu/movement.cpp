// Rearrangements: axes in another order, blocks of rows copied between arrays.
#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "lockstep/kernels/cpu/cpu_backend.h"
#include "lockstep/kernels/cpu/elements.h"
#include "lockstep/kernels/dispatch.h"
#include "lockstep/kernels/permute_plan.h"

namespace lockstep {

namespace {

// y[a * y_stride + b] = x[b * x_stride + a] for a square of one vector register a side. In log2(side) rounds,
// each exchanges the off-diagonal quarters of the squares of side 2 distance.
template <class T>
void transpose_square(const T* x, int64_t x_stride, T* y, int64_t y_stride) {
  constexpr int kSide = 64 / sizeof(T);
  using Row [[gnu::vector_size(64)]] = T;
  Row rows[kSide];
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) std::memcpy(&rows[i], x + i * x_stride, 64);
  const auto exchange = [&]<int kDistance, int... kLane>(std::integer_sequence<int, kLane...>) {
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
      if (i & kDistance) continue;
      const Row a = rows[i], b = rows[i + kDistance];
      rows[i] = __builtin_shufflevector(a, b, (kLane & kDistance ? kSide + kLane - kDistance : kLane)...);
      rows[i + kDistance] =
          __builtin_shufflevector(a, b, (kLane & kDistance ? kSide + kLane : kLane + kDistance)...);
    }
  };
  constexpr auto lanes = std::make_integer_sequence<int, kSide>();
  exchange.template operator()<1>(lanes);
  exchange.template operator()<2>(lanes);
  exchange.template operator()<4>(lanes);
  if constexpr (kSide == 16) exchange.template operator()<8>(lanes);
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) std::memcpy(y + i * y_stride, &rows[i], 64);
}

// y[a * y_stride + b] = x[b * x_stride + a] for a < count_a, b < count_b.
template <class T>
void transpose_block(int64_t count_a, int64_t count_b, const T* x, int64_t x_stride, T* y, int64_t y_stride) {
  constexpr int64_t kSide = 64 / sizeof(T);
  constexpr bool kSquares = sizeof(T) >= 4;
  for (int64_t b = 0; b < count_b; b += kSide) {
    const int64_t side_b = std::min(kSide, count_b - b);
    for (int64_t a = 0; a < count_a; a += kSide) {
      const int64_t side_a = std::min(kSide, count_a - a);
      if constexpr (kSquares) {
        if (side_a == kSide && side_b == kSide) {
          transpose_square(x + b * x_stride + a, x_stride, y + a * y_stride + b, y_stride);
          continue;
        }
      }
      for (int64_t i = a; i < a + side_a; ++i) {
        for (int64_t j = b; j < b + side_b; ++j) y[i * y_stride + j] = x[j * x_stride + i];
      }
    }
  }
}

template <class T>
void permute_elements(const PermutePlan& plan, const T* x, T* y) {
  int64_t elements = 1;
  for (int axis = 0; axis < plan.rank; ++axis) elements *= plan.extents[axis];
  const int last = plan.rank - 1;
  // The output axis that runs along the input's memory. When it is the last, rows are copied; else it is
  // exchanged with it.
  const int unit = plan.unit_axis();
  const int64_t count_a = unit == last ? 1 : plan.extents[unit], count_b = plan.extents[last];
  const int64_t outer = elements / (count_a * count_b);
  // An exchange is cut into blocks that read a few hundred bytes of each of a few hundred input rows: about
  // as many pages as the translation cache holds, and more than a line of each.
  constexpr int64_t kBlockA = 128, kBlockB = 256;
  const int64_t part_a = std::min(kBlockA, count_a),
                part_b = unit == last ? count_b : std::min(kBlockB, count_b);
  const int64_t parts_a = (count_a + part_a - 1) / part_a, parts_b = (count_b + part_b - 1) / part_b;
  const int64_t parts = parts_a * parts_b;
  parallel_ranges(outer * parts, rows_per_tile(part_a * part_b), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t rest = item / parts, from = 0, to = 0;
      for (int axis = last - 1; axis >= 0; --axis) {
        if (axis == unit) continue;
        const int64_t index = rest % plan.extents[axis];
        rest /= plan.extents[axis];
        from += index * plan.input_strides[axis];
        to += index * plan.output_strides[axis];
      }
      if (unit == last) {
        std::memcpy(y + to, x + from, static_cast<size_t>(count_b) * sizeof(T));
        continue;
      }
      const int64_t a = item % parts / parts_b * part_a, b = item % parts_b * part_b;
      transpose_block(std::min(part_a, count_a - a), std::min(part_b, count_b - b),
                      x + from + a + b * plan.input_strides[last], plan.input_strides[last],
                      y + to + a * plan.output_strides[unit] + b, plan.output_strides[unit]);
    }
  });
}

}  // namespace

void CpuBackend::permute(size_t element_size, int rank, const int64_t* extents, const int* permutation,
                         const void* x, void* y) {
  size_t bytes = element_size;
  for (int axis = 0; axis < rank; ++axis) bytes *= static_cast<size_t>(extents[axis]);
  if (bytes == 0) return;
  const PermutePlan plan = plan_permute(rank, extents, permutation);
  if (plan.rank <= 1) return copy(y, x, bytes);
  switch (element_size) {
    case 1:
      return permute_elements(plan, static_cast<const uint8_t*>(x), static_cast<uint8_t*>(y));
    case 2:
      return permute_elements(plan, static_cast<const uint16_t*>(x), static_cast<uint16_t*>(y));
    case 4:
      return permute_elements(plan, static_cast<const uint32_t*>(x), static_cast<uint32_t*>(y));
    case 8:
      return permute_elements(plan, static_cast<const uint64_t*>(x), static_cast<uint64_t*>(y));
    default:
      fail(ErrorKind::kInternal,
           fmt::format("permute: elements must have 1, 2, 4 or 8 bytes: {}", element_size));
  }
}

void CpuBackend::copy_rows(int64_t outer, size_t bytes, const void* x, size_t x_row_bytes, void* y,
                           size_t y_row_bytes) {
  if (bytes == 0) return;
  if (outer == 1) return copy(y, x, bytes);
  parallel_ranges(outer, rows_per_tile(static_cast<int64_t>(bytes / 4)), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(static_cast<char*>(y) + row * static_cast<int64_t>(y_row_bytes),
                  static_cast<const char*>(x) + row * static_cast<int64_t>(x_row_bytes), bytes);
    }
  });
}

}  // namespace lockstep
