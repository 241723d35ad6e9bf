// sin, cos, log and powers in fp64 out of additions, multiplications and divisions alone: the
// same bits under every C library, compiler and processor. For numbers that enter a run's state: learning
// rates, bias corrections, initial values.
//
// Errors in units in the last place (tests/kernels/portable_test.cpp): sin_pi, cos_pi and log 1, power 0.51,
// that is the nearest number but for near ties. Coefficients are the terms of Taylor series.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>

namespace lockstep::math::portable {

// high + low, |low| at most half a unit in the last place of high: 106 bits (Dekker 1971).
struct DoubleDouble {
  double high = 0.0, low = 0.0;
};

// a + b without an error where |a| >= |b| or a = 0 (Dekker 1971).
constexpr DoubleDouble ordered_sum(double a, double b) {
  const double sum = a + b;
  return {sum, b - (sum - a)};
}

// a + b without an error (Knuth 1969).
constexpr DoubleDouble exact_sum(double a, double b) {
  const double sum = a + b, part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

// a b without an error, |a| and |b| below 2^996 and above 2^-450: factors are split in halves of 26 bits
// (Veltkamp 1968). A fused multiply-add does it at once, but where processors lack it that is a call of the C
// library.
constexpr DoubleDouble exact_product(double a, double b) {
  constexpr double kSplitter = 0x1p27 + 1.0;
  const double a_scaled = kSplitter * a, b_scaled = kSplitter * b;
  const double a_high = a_scaled - (a_scaled - a), b_high = b_scaled - (b_scaled - b);
  const double a_low = a - a_high, b_low = b - b_high;
  const double product = a * b;
  return {product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low};
}

constexpr DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble high = exact_sum(a.high, b.high), low = exact_sum(a.low, b.low);
  const DoubleDouble sum = ordered_sum(high.high, high.low + low.high);
  return ordered_sum(sum.high, sum.low + low.low);
}

constexpr DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble product = exact_product(a.high, b.high);
  return ordered_sum(product.high, product.low + (a.high * b.low + a.low * b.high));
}

constexpr DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
  const double first = a.high / b.high;
  const DoubleDouble rest = a + b * DoubleDouble{-first};
  const double second = rest.high / b.high;
  const DoubleDouble last = rest + b * DoubleDouble{-second};
  return ordered_sum(first, second) + DoubleDouble{last.high / b.high};
}

inline constexpr DoubleDouble kLogOfTwo = {std::numbers::ln2, 0x1.abc9e3b39803fp-56};
inline constexpr DoubleDouble kPi = {std::numbers::pi, 0x1.1a62633145c07p-53};

// The polynomial with these coefficients, the constant one first, at x.
template <size_t N>
constexpr double polynomial(const std::array<double, N>& coefficients, double x) {
  double value = coefficients[N - 1];
  for (size_t i = N - 1; i > 0; --i) value = value * x + coefficients[i - 1];
  return value;
}

// The same in 106 bits, but for the coefficients from number `precise` on: what these add is so small that it
// need not be known as well. Each coefficient is larger than all that is added to it.
template <size_t N>
constexpr DoubleDouble polynomial(const std::array<DoubleDouble, N>& coefficients, DoubleDouble x,
                                  size_t precise) {
  double rest = coefficients[N - 1].high;
  for (size_t i = N - 1; i > precise; --i) rest = rest * x.high + coefficients[i - 1].high;
  DoubleDouble value{rest};
  for (size_t i = precise; i > 0; --i) {
    const DoubleDouble product = value * x, coefficient = coefficients[i - 1];
    const DoubleDouble sum = ordered_sum(coefficient.high, product.high);
    value = ordered_sum(sum.high, sum.low + (coefficient.low + product.low));
  }
  return value;
}

// x > 0 as 2^exponent (1 + fraction), 1 + fraction in [sqrt(1/2), sqrt(2)].
struct SplitLogarithm {
  double fraction;
  int64_t exponent;
};
constexpr SplitLogarithm split_logarithm(double x) {
  constexpr uint64_t kRootHalf = std::bit_cast<uint64_t>(std::numbers::sqrt2 / 2.0);
  const bool subnormal = x < std::numeric_limits<double>::min();
  const uint64_t bits = std::bit_cast<uint64_t>(subnormal ? x * 0x1p54 : x);
  const int64_t exponent = static_cast<int64_t>(bits - kRootHalf) >> 52;
  const double mantissa = std::bit_cast<double>(bits - (static_cast<uint64_t>(exponent) << 52));
  return {mantissa - 1.0, subnormal ? exponent - 54 : exponent};
}

// log x. -infinity of 0, NaN of negative numbers.
inline double log(double x) {
  if (!(x > 0.0)) {
    return x == 0.0 ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  if (x == std::numeric_limits<double>::infinity()) return x;
  // log(1 + f) = log((1 + s) / (1 - s)) = 2 s (1 + s^2/3 + s^4/5 + ...) with s = f / (2 + f), and 2 s = f - s
  // f: the largest term has no error then.
  static constexpr std::array<double, 12> kTerms = [] {
    std::array<double, 12> terms{};
    for (size_t i = 1; i < terms.size(); ++i) terms[i] = 2.0 / static_cast<double>(2 * i + 1);
    return terms;
  }();
  // The high part has 13 bits to spare, so that its multiples are exact.
  constexpr double kHigh = 0x1.62e42fefa2p-1, kLow = 0x1.9ef35793c7673p-41;
  const SplitLogarithm split = split_logarithm(x);
  const double f = split.fraction, s = f / (2.0 + f), n = static_cast<double>(split.exponent);
  return n * kHigh + (f - (s * (f - polynomial(kTerms, s * s)) - n * kLow));
}

// sin and cos of the sum of r.high, |r.high| <= pi/4, and r.low.
inline double sin_near_zero(DoubleDouble r) {
  static constexpr std::array<double, 9> kTerms = [] {
    std::array<double, 9> terms{};  // of r^3, r^5, ...: -1/3!, 1/5!, ...
    double factorial = 1.0, sign = 1.0;
    for (size_t i = 0; i < terms.size(); ++i) {
      factorial *= static_cast<double>((2 * i + 2) * (2 * i + 3));
      sign = -sign;
      terms[i] = sign / factorial;
    }
    return terms;
  }();
  const double square = r.high * r.high;
  return r.high + (r.high * square * polynomial(kTerms, square) + r.low * (1.0 - 0.5 * square));
}
inline double cos_near_zero(DoubleDouble r) {
  static constexpr std::array<double, 8> kTerms = [] {
    std::array<double, 8> terms{};  // of r^4, r^6, ...: 1/4!, -1/6!, ...
    double factorial = 2.0, sign = -1.0;
    for (size_t i = 0; i < terms.size(); ++i) {
      factorial *= static_cast<double>((2 * i + 3) * (2 * i + 4));
      sign = -sign;
      terms[i] = sign / factorial;
    }
    return terms;
  }();
  const double square = r.high * r.high, half = 0.5 * square;
  const DoubleDouble first = ordered_sum(1.0, -half);
  return first.high + (first.low + (square * square * polynomial(kTerms, square) - r.high * r.low));
}

// sin(pi (x + quarters / 2)), |x| at most 2^50.
inline double sin_pi_turned(double x, int64_t quarters) {
  constexpr double kRounder = 0x1.8p52;  // adding it rounds to an integer
  const double nearest = (2.0 * x + kRounder) - kRounder;
  const double rest = x - 0.5 * nearest;  // exact, at most 1/4
  const DoubleDouble product = exact_product(kPi.high, rest);
  const DoubleDouble r = ordered_sum(product.high, product.low + kPi.low * rest);
  switch ((static_cast<int64_t>(nearest) + quarters) & 3) {
    case 0:
      return sin_near_zero(r);
    case 1:
      return cos_near_zero(r);
    case 2:
      return -sin_near_zero(r);
    default:
      return -cos_near_zero(r);
  }
}

// sin(pi x) and cos(pi x), |x| at most 2^50; exact where they are 0, 1 or -1.
inline double sin_pi(double x) {
  return sin_pi_turned(x, 0);
}
inline double cos_pi(double x) {
  return sin_pi_turned(x, 1);
}

// log x of x > 0 in 75 bits, the series of log() above.
inline DoubleDouble precise_log(double x) {
  static constexpr std::array<DoubleDouble, 15> kTerms = [] {
    std::array<DoubleDouble, 15> terms{};
    for (size_t i = 0; i < terms.size(); ++i) {
      terms[i] = DoubleDouble{2.0} / DoubleDouble{static_cast<double>(2 * i + 1)};
    }
    return terms;
  }();
  const SplitLogarithm split = split_logarithm(x);
  const DoubleDouble s = DoubleDouble{split.fraction} / exact_sum(2.0, split.fraction);
  return kLogOfTwo * DoubleDouble{static_cast<double>(split.exponent)} + s * polynomial(kTerms, s * s, 5);
}

// e^x, the nearest double but for near ties.
inline double exp_of(DoubleDouble x) {
  static constexpr std::array<DoubleDouble, 17> kTerms = [] {
    std::array<DoubleDouble, 17> terms{};
    terms[0] = {1.0};
    for (size_t i = 1; i < terms.size(); ++i) terms[i] = terms[i - 1] / DoubleDouble{static_cast<double>(i)};
    return terms;
  }();
  if (!(x.high < 710.0)) return std::numeric_limits<double>::infinity();
  if (x.high < -746.0) return 0.0;
  constexpr double kRounder = 0x1.8p52;
  const double n = (x.high / kLogOfTwo.high + kRounder) - kRounder;
  const DoubleDouble value = polynomial(kTerms, x + kLogOfTwo * DoubleDouble{-n}, 6);
  // Two powers of two, because one alone may be out of range where the result is not.
  const int64_t exponent = static_cast<int64_t>(n), half = exponent / 2;
  const auto power_of_two = [](int64_t k) {
    return std::bit_cast<double>(static_cast<uint64_t>(k + 1023) << 52);
  };
  return value.high * power_of_two(half) * power_of_two(exponent - half);
}

// base^exponent, base >= 0, both finite; 0^0 = 1 and 0^-1 = infinity. NaN of anything else.
inline double power(double base, double exponent) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!(base >= 0.0 && base < kInfinity && exponent > -kInfinity && exponent < kInfinity)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0.0 || base == 1.0) return 1.0;
  if (base == 0.0) return exponent > 0.0 ? 0.0 : kInfinity;
  const DoubleDouble logarithm = precise_log(base);
  // Far out of range, where the parts of a product would be as well.
  const double estimate = logarithm.high * exponent;
  if (!(estimate < 1000.0)) return kInfinity;
  if (estimate < -1000.0) return 0.0;
  return exp_of(logarithm * DoubleDouble{exponent});
}

}  // namespace lockstep::math::portable
