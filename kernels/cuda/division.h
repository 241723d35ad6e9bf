// Division by numbers known at launch only, and walks over strided axes built on it.
#pragma once

#include <cstdint>

#include "lockstep/kernels/backend.h"
#include "lockstep/kernels/cuda/dialect.h"

namespace lockstep {

// x / divisor for x < 2^31 by a multiplication and a shift, a tenth of the time of a division (Granlund and
// Montgomery 1994): with s = ceil(log2 divisor) and m = floor(2^32 (2^s - divisor) / divisor) + 1,
// x / divisor = (floor(m x / 2^32) + x) >> s.
struct Divisor {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divisor() = default;
  // 1 <= value < 2^31
  explicit Divisor(int64_t value) : divisor(static_cast<uint32_t>(value)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    multiplier = static_cast<uint32_t>((((uint64_t{1} << shift) - divisor) << 32) / divisor + 1);
  }
  LOCKSTEP_DEVICE uint32_t quotient(uint32_t x) const {
    return (static_cast<uint32_t>((static_cast<uint64_t>(x) * multiplier) >> 32) + x) >> shift;
  }
};

// What a walk can count: larger arrays are walked in parts.
inline constexpr int64_t kLongestWalk = (int64_t{1} << 31) - 1;

// From the row-major index of a cell to its offsets in two arrays, each with strides of its own.
struct Walk {
  int rank = 0;
  Divisor extents[BroadcastPlan::kMaxRank];
  int64_t first_strides[BroadcastPlan::kMaxRank] = {};
  int64_t second_strides[BroadcastPlan::kMaxRank] = {};

  void add_axis(int64_t extent, int64_t first_stride, int64_t second_stride) {
    extents[rank] = Divisor(extent);
    first_strides[rank] = first_stride;
    second_strides[rank] = second_stride;
    ++rank;
  }
  int64_t cells() const {
    int64_t product = 1;
    for (int axis = 0; axis < rank; ++axis) product *= extents[axis].divisor;
    return product;
  }

  struct Offsets {
    int64_t first, second;
  };
  LOCKSTEP_DEVICE Offsets offsets(uint32_t cell) const {
    Offsets at = {0, 0};
    for (int axis = rank - 1; axis >= 0; --axis) {
      // Nothing lies outside the outermost axis: no division there.
      const uint32_t rest = axis == 0 ? 0 : extents[axis].quotient(cell);
      const int64_t index = cell - rest * extents[axis].divisor;
      at.first += index * first_strides[axis];
      at.second += index * second_strides[axis];
      cell = rest;
    }
    return at;
  }
};

}  // namespace lockstep
