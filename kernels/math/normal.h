// Normal numbers out of random bits, the same under every C library.
#pragma once

#include <cmath>

#include "lockstep/core/philox.h"
#include "lockstep/kernels/math/portable.h"

namespace lockstep::math::portable {

// One of the two numbers of mean 0 and deviation 1 that a block gives (Box and Muller 1958); 1 - u keeps the
// logarithm's argument above zero.
inline double standard_normal(const PhiloxBlock& b, bool second) {
  const double radius = std::sqrt(-2.0 * log(1.0 - uniform_double(b.r[0], b.r[1])));
  const double half_turns = 2.0 * uniform_double(b.r[2], b.r[3]);
  return radius * (second ? sin_pi(half_turns) : cos_pi(half_turns));
}

}  // namespace lockstep::math::portable
