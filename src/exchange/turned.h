// Transposition of weights on their way in and out.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lockstep {

// from (rows, columns), contiguous -> to (columns, rows) with rows of `stride` numbers. In tiles, because one
// side is always read or written across.
inline void turn(const float* from, int64_t rows, int64_t columns, float* to, int64_t stride) {
  constexpr int64_t kTile = 32;
  for (int64_t i0 = 0; i0 < rows; i0 += kTile) {
    for (int64_t j0 = 0; j0 < columns; j0 += kTile) {
      for (int64_t j = j0; j < std::min(j0 + kTile, columns); ++j) {
        for (int64_t i = i0; i < std::min(i0 + kTile, rows); ++i) to[j * stride + i] = from[i * columns + j];
      }
    }
  }
}

}  // namespace lockstep
