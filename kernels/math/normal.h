// Normal numbers out of random bits, the same under every C library.
#pragma once

#include <cmath>
#include <utility>

#include "lockstep/core/philox.h"
#include "lockstep/kernels/math/portable.h"

namespace lockstep::math::portable {

// The two numbers of mean 0 and deviation 1 that a block gives (Box and Muller 1958); 1 - u keeps the
// logarithm's argument above zero.
inline std::pair<double, double> standard_normals(const PhiloxBlock& b) {
  const double radius = std::sqrt(-2.0 * log(1.0 - uniform_double(b.r[0], b.r[1])));
  const double half_turns = 2.0 * uniform_double(b.r[2], b.r[3]);
  return {radius * cos_pi(half_turns), radius * sin_pi(half_turns)};
}
// One of them.
inline double standard_normal(const PhiloxBlock& b, bool second) {
  const auto [cosine, sine] = standard_normals(b);
  return second ? sine : cosine;
}

}  // namespace lockstep::math::portable
