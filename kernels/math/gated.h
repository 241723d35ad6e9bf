// SwiGLU (Shazeer 2020, "GLU variants improve transformer"): its formulas, the same for every backend.
#pragma once

#include "lockstep/kernels/math/elementary.h"

namespace lockstep::math {

// a sigmoid(a) b
template <class T>
LOCKSTEP_FORMULA T swiglu(T a, T b) {
  return a * sigmoid(a) * b;
}

// The derivatives with respect to a and b, times dy.
template <class T>
LOCKSTEP_FORMULA void swiglu_backward(T a, T b, T dy, T& da, T& db) {
  const T s = sigmoid(a);
  da = dy * b * (s * (T(1) + a * (T(1) - s)));
  db = dy * (a * s);
}

}  // namespace lockstep::math
