// Planes through the space of a model's parameters: how they are laid, and where points lie in them. Vectors
// are packed as those of PassProblem.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "lockstep/minimize/vectors.h"
#include "lockstep/tensor/parameter_store.h"

namespace lockstep {

using PlanePoint = std::array<double, 2>;

// Gaussian noise, a function of (seed, number, element) alone, each filter scaled to the norm that the same
// filter of x has (Li, Xu, Taylor, Studer and Goldstein 2018, section 4). A filter is what makes one output:
// of arrays of three axes and more an element of the first (convolutions), of matrices (inputs, outputs) a
// column. Arrays of fewer axes, which are biases and norms, have zeros.
RealVector filter_normalized_direction(const std::vector<ParameterEntry>& parameters, const RealVector& x,
                                       uint64_t seed, uint32_t number);

// The first two principal components of points, of length 1, with their shares of the variance. The second
// one is empty where the points lie on a line, both where they are one.
struct PrincipalPlane {
  std::array<RealVector, 2> directions;
  std::array<double, 2> shares = {};
};
PrincipalPlane principal_plane(std::span<const RealVector> points);

// Directions u, v of a plane. Error (kNumeric) where they are parallel as far as fp64 tells, or not finite.
class Plane {
 public:
  Plane(RealVector u, RealVector v);
  const RealVector& u() const { return u_; }
  const RealVector& v() const { return v_; }
  std::array<double, 2> lengths() const { return lengths_; }
  double cosine() const { return cosine_; }
  // The (a, b) for which a u + b v is nearest to the difference.
  PlanePoint project(const RealVector& difference) const;
  RealVector at(const PlanePoint& point, const RealVector& origin) const;
  // How much of the variance of points lies within the plane; not a number where they are one.
  double explained(std::span<const RealVector> points) const;

 private:
  RealVector u_, v_;
  std::array<double, 2> lengths_;
  double cosine_;
};

}  // namespace lockstep
