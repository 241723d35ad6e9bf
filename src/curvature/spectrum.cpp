// Probes, and what is made of their products.
#include "lockstep/curvature/spectrum.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"

namespace lockstep {
namespace {

// Numbers of probes: those of Lanczos' runs count from 0, of restarts, ranges and samples of the trace from
// here on.
constexpr uint32_t kRestarts = 1u << 24, kRange = 2u << 24, kSamples = 3u << 24, kSingle = 4u << 24,
                   kLeading = 5u << 24;

// Uniform in a cube: unlike signs alone, never an eigenvector of a matrix of few numbers. Scaled to length 1
// its second moments are those of the sphere, I/n.
RealVector cube_probe(uint64_t seed, uint32_t probe, int64_t n) {
  const PhiloxKey key = philox_key(seed, RandomPurpose::kProbes);
  RealVector v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) {
    const PhiloxBlock block =
        philox(key, {static_cast<uint32_t>(i), static_cast<uint32_t>(uint64_t{i} >> 32), probe, 0});
    v[i] = 2.0 * uniform_double(block.r[0], block.r[1]) - 1.0;
  }
  // A draw of exactly 0 for the one element there is has no direction.
  if (n == 1) v[0] = 1.0;
  return v;
}

// Adds what of `vector` is outside of the basis' span; not what is rounding alone.
void extend(std::vector<RealVector>& basis, RealVector vector) {
  const double before = norm(vector);
  for (int pass = 0; pass < 2; ++pass) {
    for (const RealVector& q : basis) add_scaled(-dot(q, vector), q, vector);
  }
  const double after = norm(vector);
  if (!(after > 1e-12 * before)) return;
  scale_by(1.0 / after, vector);
  basis.push_back(std::move(vector));
}

int64_t third_of(int64_t trace_products) {
  return std::max<int64_t>(1, trace_products / 3);
}

Estimate hutch_plus_plus(const SymmetricProduct& product, int64_t n, int64_t products, uint64_t seed) {
  const int64_t third = third_of(products);
  std::vector<RealVector> range;
  RealVector image;
  double trace = 0.0;
  if (third >= n) {  // the range is everything: no probe need be drawn
    RealVector unit(static_cast<size_t>(n), 0.0);
    for (size_t i = 0; i < unit.size(); ++i) {
      unit[i] = 1.0;
      product(unit, image);
      trace += image[i];
      unit[i] = 0.0;
    }
    return {trace, 0.0};
  }
  for (int64_t i = 0; i < third; ++i) {
    product(random_signs(seed, kRange + static_cast<uint32_t>(i), static_cast<size_t>(n)), image);
    extend(range, image);
  }
  for (const RealVector& q : range) {
    product(q, image);
    trace += dot(q, image);
  }
  RealVector samples;
  for (int64_t i = 0; i < third; ++i) {
    RealVector g = random_signs(seed, kSamples + static_cast<uint32_t>(i), static_cast<size_t>(n));
    for (const RealVector& q : range) add_scaled(-dot(q, g), q, g);
    product(g, image);
    samples.push_back(dot(g, image));
  }
  const auto count = static_cast<double>(third);
  double mean = 0.0, square = 0.0;
  for (const double sample : samples) mean += sample / count;
  for (const double sample : samples) square += (sample - mean) * (sample - mean);
  return {trace + mean, std::sqrt(square / (count - 1.0) / count)};
}

}  // namespace

double Spectrum::margin() const {
  const double rounding = precision == DType::kF64 ? 1e-14 : 1e-6;
  return std::max(smallest.error, rounding * std::max(std::fabs(largest.value), std::fabs(smallest.value)));
}

std::string Spectrum::definiteness() const {
  if (smallest.value > margin()) return "positive_definite";
  return smallest.value < -margin() ? "indefinite" : "singular";
}

double Spectrum::condition() const {
  return smallest.value > margin() ? largest.value / smallest.value : 0.0;
}

int64_t held_vectors(const SpectrumOptions& options, int64_t n) {
  const int64_t third = options.trace_products > 0 ? third_of(options.trace_products) : 0;
  return std::max(std::min(options.steps, n), third < n ? third : 0);
}

int64_t most_products(const SpectrumOptions& options, int64_t n) {
  const int64_t third = options.trace_products > 0 ? third_of(options.trace_products) : 0;
  return options.probes * std::min(options.steps, n) + 2 + (third < n ? 3 * third : n);
}

Spectrum measure_spectrum(const SymmetricProduct& product, int64_t n, const SpectrumOptions& options) {
  if (n < 1 || options.steps < 1 || options.probes < 1 || options.trace_products < 0) {
    fail(ErrorKind::kUsage,
         fmt::format("spectrum: {} parameters, {} steps and {} probes must be at least 1, {} products for "
                     "the trace at least 0",
                     n, options.steps, options.probes, options.trace_products));
  }
  Spectrum spectrum;
  spectrum.precision = options.precision;
  const SymmetricProduct counted = [&](const RealVector& v, RealVector& out) {
    ++spectrum.products;
    product(v, out);
  };
  std::vector<std::pair<double, double>> points;
  for (int64_t p = 0; p < options.probes; ++p) {
    uint32_t restarts = kRestarts;
    LanczosOptions of_run{.steps = options.steps};
    if (p == 0) of_run.restart = [&] { return cube_probe(options.seed, restarts++, n); };
    const LanczosRun run = lanczos(counted, cube_probe(options.seed, static_cast<uint32_t>(p), n), of_run);
    for (const RitzValue& node : ritz_values(run, run.from_start))
      points.emplace_back(node.value, node.weight / static_cast<double>(options.probes));
    if (p > 0) continue;
    spectrum.eigenvalues = ritz_values(run, std::ssize(run.basis));
    const auto measured = [&](int64_t index) {
      const RitzValue& pair = spectrum.eigenvalues[static_cast<size_t>(index)];
      return Estimate{pair.value, measured_residual(counted, pair, ritz_vector(run, index))};
    };
    spectrum.largest = measured(std::ssize(spectrum.eigenvalues) - 1);
    spectrum.smallest = measured(0);
    const double rounding = std::max({0.0, spectrum.largest.error - spectrum.eigenvalues.back().residual,
                                      spectrum.smallest.error - spectrum.eigenvalues.front().residual});
    for (RitzValue& value : spectrum.eigenvalues) value.residual += rounding;
  }
  spectrum.density = widened(std::move(points));
  if (options.trace_products > 0)
    spectrum.trace = hutch_plus_plus(counted, n, options.trace_products, options.seed);
  return spectrum;
}

Estimate largest_magnitude(const SymmetricProduct& product, int64_t n, int64_t steps, uint64_t seed,
                           uint32_t stream, int64_t& products) {
  constexpr double kEnough = 1e-3;
  RitzValue end;
  const auto enough = [&end](const LanczosRun& run) {
    const std::vector<RitzValue> values = ritz_values(run, std::ssize(run.basis));
    end = std::fabs(values.front().value) > std::fabs(values.back().value) ? values.front() : values.back();
    return end.residual <= kEnough * std::fabs(end.value);
  };
  products += std::ssize(lanczos(product, cube_probe(seed, kSingle + stream, n), {steps, {}, enough}).basis);
  return {end.value, end.residual};
}

std::vector<LeadingPair> leading_pairs(const SymmetricProduct& product, int64_t n, int64_t count,
                                       int64_t steps, uint64_t seed, int64_t& products) {
  constexpr double kEnough = 1e-4;
  constexpr size_t kLookEvery = 8;
  const SymmetricProduct counted = [&](const RealVector& v, RealVector& out) {
    ++products;
    product(v, out);
  };
  std::vector<RitzValue> values;
  std::vector<int64_t> order;  // of magnitude
  const auto look = [&](const LanczosRun& run) {
    values = ritz_values(run, std::ssize(run.basis));
    order.resize(values.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return std::fabs(values[static_cast<size_t>(a)].value) >
             std::fabs(values[static_cast<size_t>(b)].value);
    });
    order.resize(std::min(order.size(), static_cast<size_t>(count)));
    return std::ssize(order) == count && std::all_of(order.begin(), order.end(), [&](int64_t i) {
             const RitzValue& pair = values[static_cast<size_t>(i)];
             return pair.residual <= kEnough * std::fabs(pair.value);
           });
  };
  uint32_t starts = kLeading;
  LanczosOptions options{.steps = steps};
  options.restart = [&] { return cube_probe(seed, ++starts, n); };
  options.enough = [&](const LanczosRun& run) { return run.basis.size() % kLookEvery == 0 && look(run); };
  const LanczosRun run = lanczos(counted, cube_probe(seed, kLeading, n), options);
  look(run);
  std::vector<LeadingPair> result;
  for (const int64_t index : order) {
    const RitzValue& pair = values[static_cast<size_t>(index)];
    RealVector vector = ritz_vector(run, index);
    const double residual = measured_residual(counted, pair, vector);
    result.push_back({{pair.value, residual}, std::move(vector)});
  }
  return result;
}

}  // namespace lockstep
