// Planes through the space of parameters: norms of filters, principal components, coordinates.
#include "lockstep/train/slice_plane.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

TEST(SlicePlane, RandomDirectionsHaveTheNormsOfTheParametersFilters) {
  // A convolution (2, 1, 1, 3), a matrix of inputs by outputs (3, 2), and a bias.
  const std::vector<ParameterEntry> parameters = {
      {"conv.weight", {2, 1, 1, 3}, 0, {}}, {"linear.weight", {3, 2}, 64, {}}, {"linear.bias", {2}, 128, {}}};
  const RealVector x = {3, 0, 4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  const RealVector d = filter_normalized_direction(parameters, x, 5, 0);
  ASSERT_EQ(d.size(), x.size());
  EXPECT_NEAR(norm(RealVector{d[0], d[1], d[2]}), 5.0, 1e-12);
  EXPECT_EQ(norm(RealVector{d[3], d[4], d[5]}), 0.0);  // of a filter of zeros
  EXPECT_NEAR(norm(RealVector{d[6], d[8], d[10]}), std::sqrt(1.0 + 9.0 + 25.0), 1e-12);
  EXPECT_NEAR(norm(RealVector{d[7], d[9], d[11]}), std::sqrt(4.0 + 16.0 + 36.0), 1e-12);
  EXPECT_EQ(d[12], 0.0);
  EXPECT_EQ(d[13], 0.0);
  EXPECT_NE(d[1], 0.0);  // noise, not the parameters again
  EXPECT_EQ(filter_normalized_direction(parameters, x, 5, 0), d);
  EXPECT_NE(filter_normalized_direction(parameters, x, 5, 1), d);
  EXPECT_NE(filter_normalized_direction(parameters, x, 6, 0), d);
}

TEST(SlicePlane, PrincipalComponentsAreThoseOfAKnownCloud) {
  // Of deviations 3, 2 and 1 along three axes that are turned in the plane of the first two.
  const double c = 0.6, s = 0.8;
  std::vector<RealVector> points;
  for (const double sign : {-1.0, 1.0}) {
    points.push_back({10.0 + 3.0 * sign * c, 3.0 * sign * s, 1.0});
    points.push_back({10.0 - 2.0 * sign * s, 2.0 * sign * c, 1.0});
    points.push_back({10.0, 0.0, 1.0 + sign});
  }
  const PrincipalPlane plane = principal_plane(points);
  EXPECT_NEAR(plane.shares[0], 9.0 / 14.0, 1e-14);
  EXPECT_NEAR(plane.shares[1], 4.0 / 14.0, 1e-14);
  EXPECT_NEAR(std::fabs(dot(plane.directions[0], RealVector{c, s, 0.0})), 1.0, 1e-14);
  EXPECT_NEAR(std::fabs(dot(plane.directions[1], RealVector{-s, c, 0.0})), 1.0, 1e-14);
  EXPECT_NEAR(Plane(plane.directions[0], plane.directions[1]).explained(points), 13.0 / 14.0, 1e-14);
}

TEST(SlicePlane, PointsOnALineHaveOneComponentThatIsAllOfTheirVariance) {
  std::vector<RealVector> points;
  for (const double t : {0.0, 0.3, 0.7, 2.0})
    points.push_back({1.0 + static_cast<float>(0.1 * t), -2.0 * t, 5.0 * t});
  const PrincipalPlane line = principal_plane(points);
  EXPECT_NEAR(line.shares[0], 1.0, 1e-12);
  EXPECT_EQ(line.shares[1], 0.0);
  EXPECT_EQ(line.directions[0].size(), 3u);
  EXPECT_TRUE(line.directions[1].empty());
  // No line either where all are the same, or there is one or none.
  const std::vector<RealVector> same(3, {0.1, 0.2, 0.3});
  EXPECT_TRUE(principal_plane(same).directions[0].empty());
  EXPECT_TRUE(principal_plane(std::span(same).first(1)).directions[0].empty());
  EXPECT_TRUE(principal_plane({}).directions[0].empty());
}

TEST(SlicePlane, CoordinatesAreThoseOfTheNearestPointForObliqueDirectionsToo) {
  const Plane plane({2.0, 0.0, 0.0}, {3.0, 4.0, 0.0});
  EXPECT_EQ(plane.lengths()[1], 5.0);
  EXPECT_NEAR(plane.cosine(), 0.6, 1e-15);
  const RealVector origin = {1.0, 1.0, 1.0};
  RealVector difference = plane.at({-0.5, 0.25}, origin);
  add_scaled(-1.0, origin, difference);
  difference[2] = 17.0;  // off the plane
  const PlanePoint found = plane.project(difference);
  EXPECT_NEAR(found[0], -0.5, 1e-14);
  EXPECT_NEAR(found[1], 0.25, 1e-14);
  EXPECT_TRUE(std::isnan(plane.explained(std::vector<RealVector>(2, origin))));
}

TEST(SlicePlane, ParallelOrMissingDirectionsAreNoPlane) {
  EXPECT_THROW(Plane({1.0, 2.0}, {-2.0, -4.0}), Error);
  EXPECT_THROW(Plane({1.0, 2.0}, {0.0, 0.0}), Error);
  EXPECT_THROW(Plane({1.0, std::nan("")}, {0.0, 1.0}), Error);
}

}  // namespace
}  // namespace lockstep
