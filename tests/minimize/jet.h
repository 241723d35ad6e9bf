// Numbers that carry first and second derivatives with respect to all parameters: exact oracles of test
// functions.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace lockstep {

struct Jet {
  double value = 0.0;
  std::vector<double> first;   // (n); empty: a constant
  std::vector<double> second;  // (n, n); empty where only first derivatives are carried

  Jet() = default;
  Jet(double constant) : value(constant) {}  // NOLINT: constants mix with jets
  static Jet parameter(double value, size_t index, size_t n, bool twice) {
    Jet x(value);
    x.first.assign(n, 0.0);
    x.first[index] = 1.0;
    if (twice) x.second.assign(n * n, 0.0);
    return x;
  }
};

// f(x) with the value f, f' and f'' at x.value.
inline Jet chain(const Jet& x, double f, double df, double ddf) {
  Jet y(f);
  const size_t n = x.first.size();
  y.first.resize(n);
  y.second.resize(x.second.size());
  for (size_t i = 0; i < n; ++i) y.first[i] = df * x.first[i];
  for (size_t i = 0; i < y.second.size(); ++i) {
    y.second[i] = df * x.second[i] + ddf * x.first[i / n] * x.first[i % n];
  }
  return y;
}
inline Jet operator+(Jet a, const Jet& b) {
  a.value += b.value;
  if (a.first.empty()) {
    a.first = b.first;
    a.second = b.second;
    return a;
  }
  for (size_t i = 0; i < b.first.size(); ++i) a.first[i] += b.first[i];
  for (size_t i = 0; i < b.second.size(); ++i) a.second[i] += b.second[i];
  return a;
}
inline Jet operator-(const Jet& a) {
  return chain(a, -a.value, -1.0, 0.0);
}
inline Jet operator-(const Jet& a, const Jet& b) {
  return a + -b;
}
inline Jet operator*(const Jet& a, const Jet& b) {
  if (a.first.empty()) return chain(b, a.value * b.value, a.value, 0.0);
  if (b.first.empty()) return b * a;
  Jet y(a.value * b.value);
  const size_t n = a.first.size();
  y.first.resize(n);
  y.second.resize(a.second.size());
  for (size_t i = 0; i < n; ++i) y.first[i] = a.value * b.first[i] + b.value * a.first[i];
  for (size_t k = 0; k < y.second.size(); ++k) {
    const size_t i = k / n, j = k % n;
    y.second[k] =
        a.value * b.second[k] + b.value * a.second[k] + a.first[i] * b.first[j] + b.first[i] * a.first[j];
  }
  return y;
}
inline Jet reciprocal(const Jet& x) {
  const double f = 1.0 / x.value;
  return chain(x, f, -f * f, 2.0 * f * f * f);
}
inline Jet operator/(const Jet& a, const Jet& b) {
  return a * reciprocal(b);
}
inline Jet exp(const Jet& x) {
  const double f = std::exp(x.value);
  return chain(x, f, f, f);
}
inline Jet log(const Jet& x) {
  return chain(x, std::log(x.value), 1.0 / x.value, -1.0 / (x.value * x.value));
}
inline Jet sqrt(const Jet& x) {
  const double f = std::sqrt(x.value);
  return chain(x, f, 0.5 / f, -0.25 / (f * x.value));
}
inline Jet sin(const Jet& x) {
  return chain(x, std::sin(x.value), std::cos(x.value), -std::sin(x.value));
}
inline Jet cos(const Jet& x) {
  return chain(x, std::cos(x.value), -std::sin(x.value), -std::cos(x.value));
}
inline Jet atan(const Jet& x) {
  const double d = 1.0 / (1.0 + x.value * x.value);
  return chain(x, std::atan(x.value), d, -2.0 * x.value * d * d);
}
inline Jet pow(const Jet& x, const Jet& exponent) {
  return exp(exponent * log(x));
}
inline Jet square(const Jet& x) {
  return x * x;
}

}  // namespace lockstep
