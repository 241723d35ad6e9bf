// What diagonal preconditioning promises: it undoes the scaling of the axes.
#include <gtest/gtest.h>

#include "optim/problems.h"

namespace lockstep::testing {
namespace {

// f(theta) = theta' A theta / 2 with A = diag(scales) + coupling * ones.
Problem scaled_axes(const Vector& scales, double coupling) {
  const size_t d = scales.size();
  Vector matrix(d * d, coupling);
  for (size_t i = 0; i < d; ++i) matrix[i * d + i] += scales[i];
  return {"ScaledAxes", Vector(d, 1.0), quadratic_gradient(matrix, Vector(d, 0.0))};
}

double largest(const Vector& values) {
  double most = 0.0;
  for (const double value : values) most = std::max(most, std::abs(value));
  return most;
}

TEST(Diagonal, SolvesAQuadraticAlongTheAxesInTwoSteps) {
  const Problem problem = scaled_axes({0.25, 4.0, 1024.0}, 0.0);  // powers of two: no rounding
  const std::vector<Vector> path = walk<double>(
      *optimizer_from("type = 'diagonal'\ninitial_curvature = 2048"), problem, [](int64_t) { return 1.0; },
      4);
  EXPECT_EQ(path[1], (Vector{1.0 - 0.25 / 2048, 1.0 - 4.0 / 2048, 0.5}));
  EXPECT_EQ(path[2], (Vector{0.0, 0.0, 0.0}));
  EXPECT_EQ(path[4], (Vector{0.0, 0.0, 0.0})) << "and stays there";
}

TEST(Diagonal, BeatsDescentByFarWhereAxesAreNearlySeparate) {
  const Problem problem = scaled_axes({0.1, 1.0, 10.0, 100.0}, 0.01);
  const auto after = [&](const std::string& toml, double rate) {
    return largest(walk<double>(
                       *optimizer_from(toml), problem, [rate](int64_t) { return rate; }, 60)
                       .back());
  };
  EXPECT_GT(after("type = 'sgd'", 0.0199), 0.5) << "the longest stable step";
  EXPECT_LT(after("type = 'diagonal'\ninitial_curvature = 100", 1.0), 1e-6);
}

TEST(Diagonal, CurvatureIsBoundedBelowAndTakenAbsolutely) {
  // f = -theta^2 / 2: away from the maximum, not towards it; f = theta: no curvature at all.
  const Problem maximum = {"Maximum", {1.0}, [](const Vector& theta) { return Vector{-theta[0]}; }};
  EXPECT_EQ(walk<double>(
                *optimizer_from("type = 'diagonal'"), maximum, [](int64_t) { return 1.0; }, 3),
            (std::vector<Vector>{{1.0}, {2.0}, {4.0}, {8.0}}));
  const Problem slope = {"Slope", {0.0}, [](const Vector&) { return Vector{1.0}; }};
  EXPECT_EQ(walk<double>(
                *optimizer_from("type = 'diagonal'\nsmallest_curvature = 0.25"), slope,
                [](int64_t) { return 1.0; }, 3),
            (std::vector<Vector>{{0.0}, {-1.0}, {-5.0}, {-9.0}}));
}

}  // namespace
}  // namespace lockstep::testing
