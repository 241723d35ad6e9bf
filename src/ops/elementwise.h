// Differentiable elementwise operations with broadcasting (NumPy rule). Operands of different types are an
// error (kUsage) unless autocast is on: then they meet in the wider type.
#pragma once

#include "lockstep/tensor/tensor.h"

namespace lockstep {

Tensor add(const Tensor& a, const Tensor& b);
// a + b of one shape and type, either of which may be undefined, for zero; in the place of a where nothing is
// recorded and nobody else holds it.
Tensor sum_of(Tensor a, const Tensor& b);
// `value`, which a kernel has made of both on its way, as the result of add(a, b).
Tensor as_sum(Tensor value, const Tensor& a, const Tensor& b);
Tensor subtract(const Tensor& a, const Tensor& b);
Tensor multiply(const Tensor& a, const Tensor& b);
Tensor divide(const Tensor& a, const Tensor& b);
// Where a == b the derivative goes to a.
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor minimum(const Tensor& a, const Tensor& b);
// 1 where true, else 0; no derivative.
Tensor equal(const Tensor& a, const Tensor& b);
Tensor greater(const Tensor& a, const Tensor& b);
Tensor greater_equal(const Tensor& a, const Tensor& b);

Tensor add_scalar(const Tensor& x, double value);
Tensor scale(const Tensor& x, double factor);

Tensor negate(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor square(const Tensor& x);
Tensor reciprocal(const Tensor& x);
Tensor abs(const Tensor& x);  // derivative 0 at 0
Tensor sign(const Tensor& x);
Tensor erf(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);       // stable for every finite x
Tensor softplus(const Tensor& x);      // log(1 + e^x), stable for every finite x
Tensor relu(const Tensor& x);          // derivative 0 at 0
Tensor relu_squared(const Tensor& x);  // max(x, 0)^2; So et al. 2021, "Primer"
// x * Phi(x) with the Gaussian distribution function, exact (erf) form; Hendrycks and Gimpel 2016.
Tensor gelu(const Tensor& x);
// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), what PyTorch calls approximate="tanh"; the same paper.
Tensor gelu_tanh(const Tensor& x);

inline Tensor operator+(const Tensor& a, const Tensor& b) {
  return add(a, b);
}
inline Tensor operator-(const Tensor& a, const Tensor& b) {
  return subtract(a, b);
}
inline Tensor operator*(const Tensor& a, const Tensor& b) {
  return multiply(a, b);
}
inline Tensor operator/(const Tensor& a, const Tensor& b) {
  return divide(a, b);
}
inline Tensor operator-(const Tensor& x) {
  return negate(x);
}
inline Tensor operator*(const Tensor& x, double factor) {
  return scale(x, factor);
}
inline Tensor operator*(double factor, const Tensor& x) {
  return scale(x, factor);
}
inline Tensor operator+(const Tensor& x, double value) {
  return add_scalar(x, value);
}
inline Tensor operator-(const Tensor& x, double value) {
  return add_scalar(x, -value);
}

}  // namespace lockstep
