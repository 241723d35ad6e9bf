// GELU and its derivative, exact and tanh form, in float as closely as results of 16 bits show.
//
// bf16 keeps 8 digits and fp16 11; elementary.h's formulas have 22 and take twice the instructions, more than
// a GPU has time for while it moves the data. The same rules hold here: straight-line code, IEEE operations
// and explicit fused multiply-adds, so that every device and every part of a loop has the same bits. A
// rounded result is within 0.52 units in its last place of the exact one for every argument of either type,
// down to the subnormals, 0.58 for the tanh form's derivative (tests/kernels: elementary_test.cpp); before it
// is rounded, and its zero aside, within 2^-16 of itself where fp16 holds it and 2^-12 where bf16 does.
//
// All of them are computed from b = -|x|, where the functions vanish and their relative error counts, and are
// mirrored for positive x: gelu(x) = x + gelu(-x), gelu'(x) = 1 - gelu'(-x).
//
// Coefficients: minimax polynomials (Lawson's iteration of weighted least squares at 1200 Chebyshev points of
// [-13.6, 0], beyond which bf16 holds no result; 5 times the error allowed where fp16 has none either, below
// -5.9 and, of the derivative, -8), each rounded to float before the lower ones are fitted again.
#pragma once

#include "lockstep/kernels/math/elementary.h"

namespace lockstep::math {

// 2^(x y) 2^64 within 2^-18 of itself, x y in [-190, 62] or NaN. The factor keeps results normal that are to
// be multiplied by more before they are rounded.
inline constexpr float kPowerUnit = 0x1p-64f;
LOCKSTEP_FORMULA float narrow_power(float x, float y) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = std::fma(x, y, kRounder);
  const float n = shifted - kRounder;
  const float f = std::fma(x, y, -n);
  float p = 0.00958272815f;
  p = std::fma(p, f, 0.0559080727f);
  p = std::fma(p, f, 0.24024111f);
  p = std::fma(p, f, 0.693123996f);
  p = std::fma(p, f, 1.0f);
  constexpr uint32_t kBias = uint32_t{127 + 64} << 23;
  return p * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + kBias);
}

// The derivative of a GELU at x from below / unit, the one at -|x|.
LOCKSTEP_FORMULA float mirrored(float below, float unit, float x) {
  const float half = std::copysign(0.5f, x);
  return std::fma(below, half * (-2.0f * unit), half + 0.5f);
}

// x Phi(x). Phi(b) = 2^(b q(b))/2: the logarithm is smooth, and the polynomial's error is relative to Phi;
// 2^-16.4, 2^-14 below -5.9.
LOCKSTEP_FORMULA float narrow_gelu(float x) {
  const float b = bounded_below(-std::fabs(x), -kGaussianBound<float>);
  float q = 2.07506057e-09f;
  q = std::fma(q, b, 1.4989493e-07f);
  q = std::fma(q, b, 4.75108436e-06f);
  q = std::fma(q, b, 8.75437981e-05f);
  q = std::fma(q, b, 0.00105153781f);
  q = std::fma(q, b, 0.00880709477f);
  q = std::fma(q, b, 0.0543163903f);
  q = std::fma(q, b, -0.458323061f);
  q = std::fma(q, b, 1.1512301f);
  return std::fma(b * narrow_power(b, q), 0.5f * kPowerUnit, bounded_below(x, -0.0f));
}

// Phi(x) + x phi(x). At b it is (1 - b/z) 2^(b q(b))/2, z = -0.751791525 its zero; 2^-16.7, 2^-14.4 below -8.
LOCKSTEP_FORMULA float narrow_gelu_derivative(float x) {
  constexpr float kMinusInverseZero = 1.33015597f;
  const float b = bounded_below(-std::fabs(x), -kGaussianBound<float>);
  float q = 5.75504228e-11f;
  q = std::fma(q, b, 4.62770222e-09f);
  q = std::fma(q, b, 1.64504726e-07f);
  q = std::fma(q, b, 3.41654822e-06f);
  q = std::fma(q, b, 4.62418247e-05f);
  q = std::fma(q, b, 0.00043198542f);
  q = std::fma(q, b, 0.00289089908f);
  q = std::fma(q, b, 0.0142915342f);
  q = std::fma(q, b, 0.0538681187f);
  q = std::fma(q, b, -0.56140095f);
  q = std::fma(q, b, 0.383020252f);
  return mirrored(std::fma(b, kMinusInverseZero, 1.0f) * narrow_power(b, q), 0.5f * kPowerUnit, x);
}

// e / kPowerUnit, e = e^2u, and 1/(1 + e) for u(b) of gelu_tanh: sigmoid(2u) is their product.
struct NarrowSigmoid {
  float exponential, inverse;
};
LOCKSTEP_FORMULA NarrowSigmoid narrow_sigmoid(float b, float square) {
  constexpr float kLinear = 2.30220819f, kCubic = 0.102943242f;  // 2u/log(2) = b (kLinear + kCubic b^2)
  const float e = narrow_power(b, std::fma(square, kCubic, kLinear));
  return {e, reciprocal(std::fma(e, kPowerUnit, 1.0f))};
}

// Below it, e^2u is 0.
inline constexpr float kNarrowGeluTanhBound = 11.0f;

// x sigmoid(2u)
LOCKSTEP_FORMULA float narrow_gelu_tanh(float x) {
  const float b = bounded_below(-std::fabs(x), -kNarrowGeluTanhBound);
  const NarrowSigmoid s = narrow_sigmoid(b, b * b);
  return std::fma(b * s.exponential * s.inverse, kPowerUnit, bounded_below(x, -0.0f));
}

// s + x s (1 - s) (2u)', s = sigmoid(2u)
LOCKSTEP_FORMULA float narrow_gelu_tanh_derivative(float x) {
  constexpr float kLinear = 1.59576912f, kThreeCubic = 0.214064449f;
  const float b = bounded_below(-std::fabs(x), -kNarrowGeluTanhBound), square = b * b;
  const NarrowSigmoid s = narrow_sigmoid(b, square);
  const float growth = std::fma(b * std::fma(square, kThreeCubic, kLinear), s.inverse, 1.0f);
  return mirrored(s.exponential * s.inverse * growth, kPowerUnit, x);
}

}  // namespace lockstep::math
