// Sums in one canonical order.
#include "lockstep/minimize/vectors.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "lockstep/core/philox.h"

namespace lockstep {
namespace {

constexpr size_t kLanes = 128, kSegment = 4096;

double segment_dot(std::span<const double> x, std::span<const double> y) {
  double lanes[kLanes] = {};
  const size_t whole = x.size() / kLanes * kLanes;
  // Lanes that registers hold, all that is added to them: not lane after lane, so that compilers see vectors.
  constexpr size_t kTogether = 8;
  for (size_t lane = 0; whole > 0 && lane < kLanes; lane += kTogether) {
    double sums[kTogether] = {};
    for (size_t i = lane; i < whole; i += kLanes) {
      for (size_t j = 0; j < kTogether; ++j) sums[j] += x[i + j] * y[i + j];
    }
    std::copy(sums, sums + kTogether, lanes + lane);
  }
  for (size_t i = whole; i < x.size(); ++i) lanes[i - whole] += x[i] * y[i];
  // Halves that are all zero are left out.
  for (size_t half = std::bit_ceil(std::min(x.size(), kLanes)) / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace

double dot(std::span<const double> x, std::span<const double> y) {
  const size_t segments = (x.size() + kSegment - 1) / kSegment;
  if (segments <= 1) return segment_dot(x, y);
  const size_t left = std::bit_floor(segments - 1) * kSegment;
  return dot(x.first(left), y.first(left)) + dot(x.subspan(left), y.subspan(left));
}

double largest(std::span<const double> x) {
  double most = 0.0;
  for (const double value : x) {
    if (!(std::fabs(value) <= most)) most = std::fabs(value);
    if (std::isnan(most)) return most;
  }
  return most;
}

double norm(std::span<const double> x) {
  const double square = dot(x, x);
  if (square > 1e-280 && square < 1e300) return std::sqrt(square);
  const double unit = largest(x);
  if (unit == 0.0 || !std::isfinite(unit)) return unit;
  RealVector scaled(x.begin(), x.end());
  for (double& value : scaled) value /= unit;
  return unit * std::sqrt(dot(scaled, scaled));
}

void add_scaled(double a, std::span<const double> x, std::span<double> y) {
  for (size_t i = 0; i < y.size(); ++i) y[i] += a * x[i];
}

void scale_by(double a, std::span<double> x) {
  for (double& value : x) value *= a;
}

RealVector negated(std::span<const double> x) {
  RealVector result(x.begin(), x.end());
  for (double& value : result) value = -value;
  return result;
}

bool all_finite(std::span<const double> x) {
  return std::all_of(x.begin(), x.end(), [](double value) { return std::isfinite(value); });
}

RealVector random_signs(uint64_t seed, uint32_t number, size_t n) {
  const PhiloxKey key = philox_key(seed, RandomPurpose::kProbes);
  RealVector signs(n);
  for (size_t i = 0; i < n; ++i) {
    const PhiloxBlock block =
        philox(key, {static_cast<uint32_t>(i), static_cast<uint32_t>(uint64_t{i} >> 32), number, 0});
    signs[i] = block.r[0] % 2 == 0 ? 1.0 : -1.0;
  }
  return signs;
}

}  // namespace lockstep
