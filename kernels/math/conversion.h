// Conversion of one element between the types that arrays are stored in, shared by every backend.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "lockstep/core/dtype.h"
#include "lockstep/kernels/math/formula.h"

namespace lockstep::math {

// Nearest, ties to even, for floating targets and for integers; integers saturate and NaN becomes 0.
template <class To, class From>
LOCKSTEP_FORMULA To convert(From value) {
  if constexpr (std::is_same_v<From, BFloat16> || std::is_same_v<From, Float16>) {
    return convert<To>(static_cast<float>(value));
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    // 2^digits is exact in From where max() may not be.
    constexpr From kBound = From(2) * static_cast<From>(uint64_t{1} << (std::numeric_limits<To>::digits - 1));
    const From nearest = std::nearbyint(value);
    if (nearest >= kBound) return std::numeric_limits<To>::max();
    if (nearest < static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    return nearest == nearest ? static_cast<To>(nearest) : To(0);
  } else if constexpr (std::is_integral_v<From> && std::is_integral_v<To>) {
    const int64_t wide = static_cast<int64_t>(value);
    const int64_t low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    return static_cast<To>(wide < low ? low : (wide > high ? high : wide));
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace lockstep::math
