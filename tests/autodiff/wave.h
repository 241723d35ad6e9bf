// Numbers to differentiate at.
#pragma once

#include <vector>

#include "device.h"
#include "lockstep/tensor/tensor.h"

namespace lockstep::testing {

// (shape) fp32: no two of the first hundred alike, from -0.4 to factor - 0.4.
inline Tensor wave(const Shape& shape, double factor) {
  std::vector<float> values(static_cast<size_t>(shape.elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(factor * static_cast<double>((i * 7919 + 13) % 101) / 101.0 - 0.4);
  }
  return Tensor::from(shape, values, test_backend());
}

}  // namespace lockstep::testing
