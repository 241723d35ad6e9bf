// exp, log, tanh, sigmoid, softplus, erf and the Gaussian distribution function as formulas without branches.
//
// The float versions are straight-line code (selects, no table look-ups, no calls), so that a compiler turns
// a loop over them into vector code; each operation is an IEEE one or an explicit fused multiply-add, so an
// element has the same bits in the vector body and in the scalar tail of a loop. Errors over the
// whole range, in units in the last place (tests/kernels check them): exp and log 1, softplus and erf 2, tanh
// and sigmoid 2.5, gelu 5 (more where Phi is subnormal), gelu_tanh 5 for positive arguments and 3 more for
// each factor e that it is smaller than a negative one. Overflow, underflow to subnormals, infinities and NaN
// come out as the exact function's. The double versions use the C++ library.
//
// Coefficients: minimax polynomials (Remez exchange on the weighted relative error), rounded to float.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "lockstep/core/dtype.h"
#include "lockstep/kernels/math/formula.h"

namespace lockstep::math {

// 1/x, |x| in [2^-100, 2^100] or NaN, correctly rounded. On a GPU what a division does of such numbers,
// without the branch for others.
LOCKSTEP_FORMULA float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return std::fma(std::fma(-x, y, 1.0f), y, y);
#else
  return 1.0f / x;
#endif
}

// condition ? a : b, both of them computed: a GPU's compiler may make branches of the operator, and a warp
// goes both ways then.
LOCKSTEP_FORMULA float selected(bool condition, float a, float b) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("{.reg .pred p; setp.ne.s32 p, %3, 0; selp.f32 %0, %1, %2, p;}"
      : "=f"(y)
      : "f"(a), "f"(b), "r"(static_cast<int>(condition)));
  return y;
#else
  return condition ? a : b;
#endif
}

// 2^n for n in [-126, 127].
LOCKSTEP_FORMULA float power_of_two(int32_t n) {
  return std::bit_cast<float>(static_cast<uint32_t>(n + 127) << 23);
}

// e^x = 2^exponent * (1 + fraction), |fraction| < 0.42. x within [-104, 89] or NaN (fraction is NaN then).
struct SplitExponential {
  float fraction;
  int32_t exponent;
};
LOCKSTEP_FORMULA SplitExponential split_exponential(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // the high part times n is exact
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = std::fma(x, kLog2E, kRounder);
  const float n = shifted - kRounder;
  const float r = std::fma(-n, kLn2Low, std::fma(-n, kLn2High, x));
  float p = 0.000197901536f;
  p = std::fma(p, r, 0.00139448687f);
  p = std::fma(p, r, 0.00833349861f);
  p = std::fma(p, r, 0.0416662917f);
  p = std::fma(p, r, 0.166666657f);
  p = std::fma(p, r, 0.5f);
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRounder);
  return {std::fma(r * r, p, r), exponent};
}

LOCKSTEP_FORMULA float exp(float x) {
  // Beyond these bounds the result is 0 or infinity anyway; written so that NaN passes.
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const SplitExponential split = split_exponential(x);
  // Two factors, because 2^exponent alone may be out of range where the result is not; only the last product
  // rounds.
  const int32_t half = split.exponent >> 1;
  return (1.0f + split.fraction) * power_of_two(half) * power_of_two(split.exponent - half);
}
LOCKSTEP_FORMULA double exp(double x) {
  return std::exp(x);
}

// exp(x) for x <= 0 or NaN, the same bits in two thirds of the instructions: there is no bound above, and one
// power of two, kept in range by 2^64, so that only the last product rounds.
LOCKSTEP_FORMULA float exp_nonpositive(float x) {
  // Below, the product would round to zero as well; but underflow, even in a lane whose result nobody wants,
  // costs an Intel processor some 150 cycles.
  const bool vanishes = x < -104.0f;
  const SplitExponential split = split_exponential(vanishes ? 0.0f : x);
  constexpr uint32_t kBias = uint32_t{127 + 64} << 23;
  const float power = std::bit_cast<float>((static_cast<uint32_t>(split.exponent) << 23) + kBias);
  return vanishes ? 0.0f : std::fma(split.fraction, power, power) * 0x1p-64f;
}
LOCKSTEP_FORMULA double exp_nonpositive(double x) {
  return std::exp(x);
}

// e^x for x <= 0 or NaN, as of a softmax: the bits of exp where it is a normal number, and 0 where it is
// smaller. Processors may take a hundred times as long for subnormal numbers, of which the gradients of a
// class head that is sure of its classes would be full.
LOCKSTEP_FORMULA float exp_normal(float x) {
  constexpr float kLeast = -87.33654f;  // e^kLeast = 1.000005 2^-126
  const bool vanishes = x < kLeast;
  const SplitExponential split = split_exponential(vanishes ? 0.0f : x);
  const float power = power_of_two(split.exponent);
  return vanishes ? 0.0f : std::fma(split.fraction, power, power);
}
LOCKSTEP_FORMULA double exp_normal(double x) {
  return std::exp(x);
}

// The larger of x and a bound that is no NaN; NaN of NaN, and x where it is a zero and the bound -0.
LOCKSTEP_FORMULA float bounded_below(float x, float bound) {
#if defined(__CUDA_ARCH__)
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(x), "f"(bound));  // a select is two instructions
  return larger;
#else
  return x < bound ? bound : x;
#endif
}

// e^x for x <= 0 or NaN, as closely as results that are stored as S need: of 16-bit ones, which keep 11 bits,
// within 2.7e-7 + 1.4e-8 |x| of itself (log2(e) is rounded), 0 below 2^-126.5, in 12 instructions of a GPU
// where exp_normal takes some 16.
template <class S>
LOCKSTEP_FORMULA Accumulation<S> exp_for(Accumulation<S> x) {
  if constexpr (sizeof(S) == 2) {
    // 2^n 2^f, n + f = x log2(e), |f| <= 1/2; at the bound of x the bits of 2^n are those of 0.
    constexpr float kLog2E = 1.44269504f;
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    x = bounded_below(x, -88.1f);
    const float shifted = std::fma(x, kLog2E, kRounder), n = shifted - kRounder, f = std::fma(x, kLog2E, -n);
    float p = 0.00133813021f;
    p = std::fma(p, f, 0.00966636837f);
    p = std::fma(p, f, 0.0555038117f);
    p = std::fma(p, f, 0.240223497f);
    p = std::fma(p, f, 0.693147182f);
    p = std::fma(p, f, 1.0f);
    return p * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);
  } else {
    return exp_normal(x);
  }
}

// log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1].
LOCKSTEP_FORMULA float log_near_one(float f) {
  float p = 0.0674772859f;
  p = std::fma(p, f, -0.116775148f);
  p = std::fma(p, f, 0.11888697f);
  p = std::fma(p, f, -0.124053404f);
  p = std::fma(p, f, 0.142194539f);
  p = std::fma(p, f, -0.166680053f);
  p = std::fma(p, f, 0.200021237f);
  p = std::fma(p, f, -0.250000089f);
  p = std::fma(p, f, 0.333333135f);
  return std::fma(f * f, std::fma(f, p, -0.5f), f);
}

LOCKSTEP_FORMULA float log(float x) {
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr uint32_t kRootHalf =
      0x3F3504F3u;  // bits of sqrt(1/2): mantissas are taken from [sqrt(1/2), sqrt(2))
  const bool subnormal = x < std::numeric_limits<float>::min();
  const float normal = subnormal ? x * 8388608.0f : x;
  const uint32_t bits = std::bit_cast<uint32_t>(normal);
  const int32_t exponent = static_cast<int32_t>(bits - kRootHalf) >> 23;
  const float mantissa = std::bit_cast<float>(bits - (static_cast<uint32_t>(exponent) << 23));
  const float n = static_cast<float>(exponent) - (subnormal ? 23.0f : 0.0f);
  float y = std::fma(n, kLn2High, std::fma(n, kLn2Low, log_near_one(mantissa - 1.0f)));
  y = x == std::numeric_limits<float>::infinity() ? x : y;
  y = x == 0.0f ? -std::numeric_limits<float>::infinity() : y;
  return x >= 0.0f ? y : std::numeric_limits<float>::quiet_NaN();
}
LOCKSTEP_FORMULA double log(double x) {
  return std::log(x);
}

// log(1 + t) for t in [0, 1], relative accuracy down to t = 0.
LOCKSTEP_FORMULA float log1p_unit(float t) {
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  const bool halve = t > 0.41421356f;  // log(1 + t) = log(2) + log(1 + (t - 1)/2)
  const float n = halve ? 1.0f : 0.0f;
  const float f = halve ? 0.5f * (t - 1.0f) : t;
  return std::fma(n, kLn2High, std::fma(n, kLn2Low, log_near_one(f)));
}
LOCKSTEP_FORMULA double log1p_unit(double t) {
  return std::log1p(t);
}

// tanh x = (e^2x - 1)/(e^2x + 1), with e^2x - 1 formed without cancellation.
LOCKSTEP_FORMULA float tanh(float x) {
  float a = std::fabs(x);
  a = a > 10.0f ? 10.0f : a;  // tanh(10) rounds to 1
  const SplitExponential split = split_exponential(2.0f * a);
  const float power =
      power_of_two(split.exponent & 31);  // exponent is in [0, 29]; the mask tames the bits of a NaN
  const float expm1 = std::fma(power, split.fraction, power - 1.0f);
  return std::copysign(expm1 / (expm1 + 2.0f), x);
}
LOCKSTEP_FORMULA double tanh(double x) {
  return std::tanh(x);
}

// 1/(1 + e^-x); for negative x as e^x/(1 + e^x), so that neither end loses digits.
template <class T>
LOCKSTEP_FORMULA T sigmoid(T x) {
  const T e = exp_nonpositive(-std::fabs(x));
  return (x >= T(0) ? T(1) : e) / (T(1) + e);
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)
template <class T>
LOCKSTEP_FORMULA T softplus(T x) {
  return (x > T(0) ? x : T(0)) + log1p_unit(exp_nonpositive(-std::fabs(x)));
}

// The upper tail of the standard normal distribution at a >= 0, Q(a) = erfc(a/sqrt(2))/2, and e^(-a^2/2) on
// the way.
template <class T>
struct GaussianTail {
  T exponential, tail;
};
LOCKSTEP_FORMULA GaussianTail<float> gaussian_tail(float a) {
  // Below 1: Q(a) = 1/2 - a R(a^2). Above: Q(a) = e^(-a^2/2) P(t)/(a + 3), t = (a - 3)/(a + 3); beyond 15 it
  // is 0.
  a = a > 15.0f ? 15.0f : a;
  const float square = a * a;
  const float square_error =
      std::fma(a, a, -square);  // matters in the tail: e^-s has relative error |error of s|
  const float e = exp_nonpositive(-0.5f * square);
  const float exponential = std::fma(-0.5f * square_error, e, e);
  const float inverse = reciprocal(a + 3.0f);
  const float t = (a - 3.0f) * inverse;
  float p = 5.44632348e-05f;
  p = std::fma(p, t, 0.000131272333f);
  p = std::fma(p, t, -0.000244748429f);
  p = std::fma(p, t, -0.0010325358f);
  p = std::fma(p, t, 0.00102477672f);
  p = std::fma(p, t, 0.00696930429f);
  p = std::fma(p, t, -0.0104625188f);
  p = std::fma(p, t, -0.0472626872f);
  p = std::fma(p, t, 0.230017707f);
  p = std::fma(p, t, -0.509332001f);
  p = std::fma(p, t, 0.729083717f);
  float r = -7.65420918e-06f;
  r = std::fma(r, square, 0.000113486378f);
  r = std::fma(r, square, -0.00118632999f);
  r = std::fma(r, square, 0.00997332297f);
  r = std::fma(r, square, -0.0664903596f);
  r = std::fma(r, square, 0.398942292f);
  return {exponential, selected(a < 1.0f, std::fma(-a, r, 0.5f), exponential * (p * inverse))};
}
LOCKSTEP_FORMULA GaussianTail<double> gaussian_tail(double a) {
  return {std::exp(-0.5 * a * a), 0.5 * std::erfc(a * 0.70710678118654752440)};
}

LOCKSTEP_FORMULA float erf(float x) {
  const float a = std::fabs(x);
  const float z = x * x;
  float p = 7.85386073e-05f;
  p = std::fma(p, z, -0.000801019371f);
  p = std::fma(p, z, 0.00518832775f);
  p = std::fma(p, z, -0.0268538129f);
  p = std::fma(p, z, 0.112835854f);
  p = std::fma(p, z, -0.37612626f);
  p = std::fma(p, z, 0.128379167f);  // 2/sqrt(pi) - 1; the 1 is added last
  const float near_zero = std::fma(x, p, x);
  const float away = std::copysign(std::fma(-2.0f, gaussian_tail(a * 1.41421356f).tail, 1.0f), x);
  return a < 1.0f ? near_zero : away;
}
LOCKSTEP_FORMULA double erf(double x) {
  return std::erf(x);
}

// The bound beyond which Q is 0 in T: keeps -infinity * 0 out of products with Q.
template <class T>
inline constexpr T kGaussianBound = sizeof(T) == 8 ? T(40) : T(15);

// x Phi(x), Phi = standard normal distribution function (Hendrycks and Gimpel 2016, exact form).
template <class T>
LOCKSTEP_FORMULA T gelu(T x) {
  const T tail = gaussian_tail(std::fabs(x)).tail;
  const T bounded = x < -kGaussianBound<T> ? -kGaussianBound<T> : x;
  return bounded * (x > T(0) ? T(1) - tail : tail);
}

// d/dx gelu = Phi(x) + x phi(x)
template <class T>
LOCKSTEP_FORMULA T gelu_derivative(T x) {
  constexpr T kInverseRootTwoPi = T(0.39894228040143267794);
  T size = std::fabs(x);
  size = size > kGaussianBound<T> ? kGaussianBound<T> : size;
  const T bounded = std::copysign(size, x);
  const GaussianTail<T> gaussian = gaussian_tail(size);
  return (x > T(0) ? T(1) - gaussian.tail : gaussian.tail) +
         bounded * (gaussian.exponential * kInverseRootTwoPi);
}

// Below -kGeluTanhBound gelu_tanh is 0 in T, beyond kGeluTanhBound it is x: keeps infinity * 0 out of
// products.
template <class T>
inline constexpr T kGeluTanhBound = sizeof(T) == 8 ? T(30) : T(15);

// 2 u(x) of gelu_tanh.
template <class T>
LOCKSTEP_FORMULA T gelu_tanh_exponent(T x) {
  constexpr T kRootEightOverPi = T(1.5957691216057307118), kCubic = T(0.044715);
  return kRootEightOverPi * (x + kCubic * (x * x * x));
}

// x/2 (1 + tanh u), u(x) = sqrt(2/pi) (x + 0.044715 x^3): close to gelu, and cheaper (Hendrycks and Gimpel
// 2016, tanh form). Computed as x sigmoid(2u), which keeps its digits where x is negative.
template <class T>
LOCKSTEP_FORMULA T gelu_tanh(T x) {
  const T bounded = x < -kGeluTanhBound<T> ? -kGeluTanhBound<T> : x;
  return bounded * sigmoid(gelu_tanh_exponent(bounded));
}

// d/dx gelu_tanh = s + x s (1 - s) (2u)', s = sigmoid(2u)
template <class T>
LOCKSTEP_FORMULA T gelu_tanh_derivative(T x) {
  constexpr T kRootEightOverPi = T(1.5957691216057307118), kThreeCubic = T(3 * 0.044715);
  T bounded = x < -kGeluTanhBound<T> ? -kGeluTanhBound<T> : x;
  bounded = bounded > kGeluTanhBound<T> ? kGeluTanhBound<T> : bounded;
  const T s = sigmoid(gelu_tanh_exponent(bounded));
  const T slope = kRootEightOverPi * (T(1) + kThreeCubic * (bounded * bounded));
  return s + bounded * (s * (T(1) - s) * slope);
}

}  // namespace lockstep::math
