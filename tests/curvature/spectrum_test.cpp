// Spectra of matrices whose eigenvalues are known.
#include "lockstep/curvature/spectrum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "lockstep/core/error.h"
#include "lockstep/minimize/dense.h"

namespace lockstep {
namespace {

SymmetricProduct product_with(const DenseMatrix& a) {
  return [&a](const RealVector& v, RealVector& out) { out = multiply(a, v); };
}

DenseMatrix matrix_of(int64_t n, const RealVector& elements) {
  DenseMatrix a(n, n);
  a.elements = elements;
  return a;
}

double integral(const SpectralDensity& density) {
  double sum = 0.0;
  for (size_t i = 1; i < density.at.size(); ++i)
    sum += 0.5 * (density.at[i] - density.at[i - 1]) * (density.values[i] + density.values[i - 1]);
  return sum;
}

double total(const RealVector& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum;
}

// Tridiagonal (-1, 2, -1): eigenvalues 2 - 2 cos(k pi / (n + 1)).
constexpr int64_t kRods = 100;
DenseMatrix rods() {
  DenseMatrix a(kRods, kRods);
  for (int64_t i = 0; i < kRods; ++i) {
    a(i, i) = 2.0;
    if (i > 0) a(i, i - 1) = a(i - 1, i) = -1.0;
  }
  return a;
}
double rod_eigenvalue(int64_t k) {
  return 2.0 - 2.0 * std::cos(static_cast<double>(k) * std::numbers::pi / static_cast<double>(kRods + 1));
}

TEST(Spectrum, OfAllStepsIsTheWholeOne) {
  const DenseMatrix a = rods();
  const Spectrum spectrum = measure_spectrum(product_with(a), kRods, {.steps = 200, .trace_products = 300});
  ASSERT_EQ(spectrum.eigenvalues.size(), 100u);
  for (int64_t k = 1; k <= kRods; ++k)
    EXPECT_NEAR(spectrum.eigenvalues[static_cast<size_t>(k - 1)].value, rod_eigenvalue(k), 1e-12);
  EXPECT_NEAR(spectrum.largest.value, rod_eigenvalue(kRods), 1e-12);
  EXPECT_LT(spectrum.smallest.error, 1e-12);
  EXPECT_NEAR(spectrum.condition(), rod_eigenvalue(kRods) / rod_eigenvalue(1), 1e-7);
  EXPECT_EQ(spectrum.definiteness(), "positive_definite");
  EXPECT_NEAR(spectrum.trace->value, 200.0, 1e-10);
  EXPECT_EQ(spectrum.trace->error, 0.0);
  EXPECT_NEAR(total(spectrum.density.weights), 1.0, 1e-12);
  EXPECT_NEAR(integral(spectrum.density), 1.0, 1e-7);
  // The mean of the density is the trace over n: within what eight probes leave of chance.
  double mean = 0.0;
  for (size_t j = 0; j < spectrum.density.nodes.size(); ++j)
    mean += spectrum.density.weights[j] * spectrum.density.nodes[j];
  EXPECT_NEAR(mean, 2.0, 0.15);
}

TEST(Spectrum, ResidualsBoundTheErrorOfFewSteps) {
  const DenseMatrix a = rods();
  for (const int64_t steps : {1, 5, 20, 40}) {
    const Spectrum spectrum =
        measure_spectrum(product_with(a), kRods, {.steps = steps, .probes = 2, .trace_products = 30});
    const auto near_one = [](const RitzValue& found) {
      double least = std::numeric_limits<double>::infinity();
      for (int64_t k = 1; k <= kRods; ++k)
        least = std::min(least, std::fabs(found.value - rod_eigenvalue(k)));
      return least <= found.residual + 1e-13;
    };
    for (const RitzValue& found : spectrum.eigenvalues) EXPECT_TRUE(near_one(found)) << steps;
    EXPECT_NEAR(spectrum.largest.error, spectrum.eigenvalues.back().residual, 1e-12) << steps;
    EXPECT_NEAR(spectrum.smallest.error, spectrum.eigenvalues.front().residual, 1e-12) << steps;
    EXPECT_LE(spectrum.largest.value, rod_eigenvalue(kRods) + 1e-13);
    EXPECT_NEAR(spectrum.trace->value, 200.0, 4.0 * spectrum.trace->error);
    EXPECT_GT(spectrum.trace->error, 0.0);
    EXPECT_NEAR(integral(spectrum.density), 1.0, 1e-7);
  }
}

TEST(Spectrum, OfKnownHessians) {
  struct Case {
    const char* name;
    DenseMatrix matrix;
    RealVector eigenvalues;
    const char* definiteness;
  };
  const std::vector<Case> cases = {
      {"Rosenbrock at its minimum",
       matrix_of(2, {802, -400, -400, 200}),
       {0.3993607674876216, 1001.6006392325123},
       "positive_definite"},
      {"Rosenbrock at (0, 1)", matrix_of(2, {-398, 0, 0, 200}), {-398, 200}, "indefinite"},
      {"Beale at (1, 1)",
       matrix_of(2, {0, 27.75, 27.75, 68.5}),
       {-9.83089155178239, 78.33089155178239},
       "indefinite"},
      {"Wood at its minimum",
       matrix_of(4, {802, -400, 0, 0, -400, 220.2, 0, 19.8, 0, 0, 722, -360, 0, 19.8, -360, 200.2}),
       {0.719568084317487, 32.15015439716176, 905.6053497894363, 1005.9249277290844},
       "positive_definite"},
      // Of (x0 + 10 x1)^2 + 5 (x2 - x3)^2: 0 twice.
      {"Powell's singular function at 0",
       matrix_of(4, {2, 20, 0, 0, 20, 200, 0, 0, 0, 0, 10, -10, 0, 0, -10, 10}),
       {0, 0, 20, 202},
       "singular"},
      {"saddle", matrix_of(2, {0, -1, -1, 0}), {-1, 1}, "indefinite"},
      {"one eigenvalue", matrix_of(3, {7, 0, 0, 0, 7, 0, 0, 0, 7}), {7, 7, 7}, "positive_definite"},
      {"zero", matrix_of(2, {0, 0, 0, 0}), {0, 0}, "singular"},
      {"one parameter", matrix_of(1, {-3}), {-3}, "indefinite"},
      {"huge", matrix_of(2, {1e300, 0, 0, 1e290}), {1e290, 1e300}, "positive_definite"}};
  for (const Case& known : cases) {
    // Many more steps than parameters.
    const int64_t n = known.matrix.rows;
    const Spectrum spectrum = measure_spectrum(product_with(known.matrix), n, {});
    const double scale = std::max(std::fabs(known.eigenvalues.front()), std::fabs(known.eigenvalues.back()));
    ASSERT_EQ(spectrum.eigenvalues.size(), known.eigenvalues.size()) << known.name;
    for (size_t i = 0; i < known.eigenvalues.size(); ++i)
      EXPECT_NEAR(spectrum.eigenvalues[i].value, known.eigenvalues[i], 1e-12 * scale) << known.name;
    EXPECT_STREQ(spectrum.definiteness().c_str(), known.definiteness) << known.name;
    EXPECT_NEAR(spectrum.trace->value, total(known.eigenvalues), 1e-12 * scale) << known.name;
    EXPECT_NEAR(integral(spectrum.density), 1.0, 1e-7) << known.name;
    int64_t products = 0;
    const Estimate sharpest = largest_magnitude(product_with(known.matrix), n, 64, 0, 0, products);
    EXPECT_NEAR(std::fabs(sharpest.value), scale, 1e-3 * scale) << known.name;
    EXPECT_LE(products, n) << known.name;
    EXPECT_FALSE(density_sketch(spectrum.density, 4, 10).empty()) << known.name;
  }
}

TEST(Spectrum, RoundingOfProductsInFp32IsNoNegativeCurvature) {
  constexpr int64_t kAll = 60, kRank = 5;
  // B B', with values of any binary places.
  DenseMatrix b(kAll, kRank), a(kAll, kAll);
  for (int64_t i = 0; i < kAll; ++i)
    for (int64_t j = 0; j < kRank; ++j) b(i, j) = std::sin(static_cast<double>(1 + i * kRank + j));
  for (int64_t i = 0; i < kAll; ++i)
    for (int64_t j = 0; j < kAll; ++j)
      for (int64_t k = 0; k < kRank; ++k) a(i, j) += b(i, k) * b(j, k);
  const SymmetricProduct single = [&a](const RealVector& v, RealVector& out) {
    out.assign(v.size(), 0.0);
    for (int64_t i = 0; i < kAll; ++i) {
      float sum = 0.0f;
      for (int64_t j = 0; j < kAll; ++j)
        sum += static_cast<float>(a(i, j)) * static_cast<float>(v[static_cast<size_t>(j)]);
      out[static_cast<size_t>(i)] = static_cast<double>(sum);
    }
  };
  const Spectrum known = measure_spectrum(single, kAll, {.precision = DType::kF32});
  EXPECT_EQ(known.definiteness(), "singular") << known.smallest.value << " " << known.margin();
  EXPECT_EQ(known.density.share_below(known.margin()), 0.0);
  const Spectrum taken_for_exact = measure_spectrum(single, kAll, {});
  EXPECT_GT(taken_for_exact.density.share_below(taken_for_exact.margin()), 0.0);
}

TEST(Spectrum, NegativeEigenvaluesAreCounted) {
  DenseMatrix a(40, 40);
  for (int64_t i = 0; i < 40; ++i) a(i, i) = i < 10 ? -1.0 - static_cast<double>(i) : static_cast<double>(i);
  const Spectrum spectrum = measure_spectrum(product_with(a), 40, {.probes = 40});
  EXPECT_NEAR(spectrum.density.share_below(0.0), 0.25, 0.05);
  EXPECT_EQ(spectrum.condition(), 0.0);
}

TEST(Spectrum, RefusesWhatIsNoNumberAndNoSize) {
  const SymmetricProduct broken = [](const RealVector& v, RealVector& out) {
    out.assign(v.size(), std::numeric_limits<double>::quiet_NaN());
  };
  EXPECT_THROW(measure_spectrum(broken, 3, {}), Error);
  int64_t products = 0;
  EXPECT_THROW(largest_magnitude(broken, 3, 8, 0, 0, products), Error);
  EXPECT_THROW(measure_spectrum(broken, 0, {}), Error);
}

TEST(Spectrum, ProbesAreAFunctionOfTheSeed) {
  const DenseMatrix a = rods();
  const auto trace = [&](uint64_t seed) {
    return measure_spectrum(product_with(a), kRods, {.steps = 4, .probes = 1, .seed = seed}).trace->value;
  };
  EXPECT_EQ(trace(1), trace(1));
  EXPECT_NE(trace(1), trace(2));
}

TEST(LeadingPairs, AreTheEigenvectorsOfLargestMagnitude) {
  DenseMatrix a(50, 50);
  for (int64_t i = 0; i < 50; ++i) a(i, i) = 0.01 * static_cast<double>(i);
  a(7, 7) = -5.0;
  a(31, 31) = 3.0;
  int64_t products = 0;
  const std::vector<LeadingPair> pairs = leading_pairs(product_with(a), 50, 2, 200, 1, products);
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_LT(products, 30);
  EXPECT_NEAR(pairs[0].value.value, -5.0, 1e-6);
  EXPECT_NEAR(pairs[1].value.value, 3.0, 1e-6);
  EXPECT_LT(pairs[1].value.error, 1e-3);
  EXPECT_NEAR(std::fabs(pairs[0].vector[7]), 1.0, 1e-6);
  EXPECT_NEAR(std::fabs(pairs[1].vector[31]), 1.0, 1e-6);
  EXPECT_NEAR(norm(pairs[1].vector), 1.0, 1e-14);
  // Of the same eigenvalue twice, and of fewer than are asked for.
  const auto twice = [](const RealVector& v, RealVector& out) {
    out = v;
    scale_by(2.0, out);
  };
  const std::vector<LeadingPair> same = leading_pairs(twice, 9, 2, 200, 1, products);
  ASSERT_EQ(same.size(), 2u);
  EXPECT_NEAR(dot(same[0].vector, same[1].vector), 0.0, 1e-14);
  EXPECT_EQ(leading_pairs(twice, 1, 2, 200, 1, products).size(), 1u);
}

TEST(Spectrum, TellsBeforehandHowManyVectorsItHoldsAndProductsItTakes) {
  EXPECT_EQ(held_vectors({.steps = 64, .trace_products = 30}, 1000), 64);
  EXPECT_EQ(held_vectors({.steps = 64, .trace_products = 300}, 1000), 100);
  EXPECT_EQ(held_vectors({.steps = 64, .trace_products = 0}, 10), 10);
  EXPECT_EQ(held_vectors({.steps = 64, .trace_products = 300}, 100), 64) << "of a trace that is exact none";
  const DenseMatrix a = rods();
  for (const int64_t trace : {0, 30, 300}) {
    const SpectrumOptions options{.steps = 5, .probes = 2, .trace_products = trace};
    EXPECT_EQ(measure_spectrum(product_with(a), kRods, options).products, most_products(options, kRods))
        << trace;
  }
}

}  // namespace
}  // namespace lockstep
