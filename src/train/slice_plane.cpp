// Directions, and coordinates along them.
#include "lockstep/train/slice_plane.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/kernels/math/normal.h"
#include "lockstep/minimize/dense.h"

namespace lockstep {
namespace {

// Differences that are rounding alone have no direction.
constexpr double kCollinear = 1e-10;

// Of one point at least.
RealVector mean_of(std::span<const RealVector> points) {
  RealVector mean(points[0].size(), 0.0);
  for (const RealVector& point : points) add_scaled(1.0 / static_cast<double>(points.size()), point, mean);
  return mean;
}

std::vector<RealVector> centred(std::span<const RealVector> points) {
  std::vector<RealVector> rows(points.begin(), points.end());
  if (rows.empty()) return rows;
  const RealVector mean = mean_of(points);
  for (RealVector& row : rows) add_scaled(-1.0, mean, row);
  return rows;
}

}  // namespace

RealVector filter_normalized_direction(const std::vector<ParameterEntry>& parameters, const RealVector& x,
                                       uint64_t seed, uint32_t number) {
  RealVector direction(x.size(), 0.0);
  // The probes of spectra have 0 where this has 1.
  const PhiloxKey key = philox_key(seed, RandomPurpose::kProbes);
  int64_t first = 0;
  for (const ParameterEntry& entry : parameters) {
    const int64_t size = entry.shape.elements();
    if (entry.shape.rank() >= 2 && size > 0) {
      for (int64_t i = first; i < first + size; ++i) {
        const auto pair = static_cast<uint64_t>(i) / 2;
        direction[static_cast<size_t>(i)] = math::portable::standard_normal(
            philox(key, {static_cast<uint32_t>(pair), static_cast<uint32_t>(pair >> 32), number, 1}),
            i % 2 != 0);
      }
      const bool columns = entry.shape.rank() == 2;
      const int64_t filters = columns ? entry.shape[1] : entry.shape[0], length = size / filters;
      for (int64_t f = 0; f < filters; ++f) {
        const auto place = [&](int64_t k) {
          return static_cast<size_t>(first + (columns ? k * filters + f : f * length + k));
        };
        RealVector own, drawn;
        for (int64_t k = 0; k < length; ++k) {
          own.push_back(x[place(k)]);
          drawn.push_back(direction[place(k)]);
        }
        const double factor = norm(own) / norm(drawn);
        for (int64_t k = 0; k < length; ++k) direction[place(k)] *= factor;
      }
    }
    first += size;
  }
  return direction;
}

PrincipalPlane principal_plane(std::span<const RealVector> points) {
  PrincipalPlane plane;
  const std::vector<RealVector> rows = centred(points);
  const auto count = static_cast<int64_t>(rows.size());
  if (count < 2) return plane;
  // Of the few points, not of the many parameters: R R' has the eigenvalues of R' R.
  DenseMatrix gram(count, count);
  double total = 0.0, largest_square = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j <= i; ++j)
      gram(i, j) = dot(rows[static_cast<size_t>(i)], rows[static_cast<size_t>(j)]);
    total += gram(i, i);
    const RealVector& point = points[static_cast<size_t>(i)];
    largest_square = std::fmax(largest_square, dot(point, point));
  }
  // What is left of the same points by rounding is no variance.
  if (!(total > 16.0 * kEpsilon * kEpsilon * static_cast<double>(count) * largest_square)) return plane;
  const SymmetricEigen eigen = symmetric_eigen(gram);
  for (int64_t k = 0; k < 2; ++k) {
    const int64_t column = count - 1 - k;
    const double value = eigen.values[static_cast<size_t>(column)];
    if (!(value > kCollinear * eigen.values.back())) break;
    RealVector& direction = plane.directions[static_cast<size_t>(k)];
    direction.assign(rows[0].size(), 0.0);
    for (int64_t i = 0; i < count; ++i)
      add_scaled(eigen.vectors(i, column), rows[static_cast<size_t>(i)], direction);
    if (k == 1) add_scaled(-dot(plane.directions[0], direction), plane.directions[0], direction);
    scale_by(1.0 / norm(direction), direction);
    plane.shares[static_cast<size_t>(k)] = value / total;
  }
  return plane;
}

Plane::Plane(RealVector u, RealVector v) : u_(std::move(u)), v_(std::move(v)), lengths_{norm(u_), norm(v_)} {
  cosine_ = dot(u_, v_) / lengths_[0] / lengths_[1];
  if (!(1.0 - std::fabs(cosine_) > kCollinear)) {
    fail(ErrorKind::kNumeric,
         fmt::format("the two directions of {} parameters span no plane: lengths {} and {}, cosine {}",
                     u_.size(), lengths_[0], lengths_[1], cosine_));
  }
}

PlanePoint Plane::project(const RealVector& difference) const {
  const double a = dot(u_, difference) / lengths_[0], b = dot(v_, difference) / lengths_[1];
  const double rest = 1.0 - cosine_ * cosine_;
  return {(a - cosine_ * b) / rest / lengths_[0], (b - cosine_ * a) / rest / lengths_[1]};
}

RealVector Plane::at(const PlanePoint& point, const RealVector& origin) const {
  RealVector x = origin;
  add_scaled(point[0], u_, x);
  add_scaled(point[1], v_, x);
  return x;
}

double Plane::explained(std::span<const RealVector> points) const {
  if (points.empty()) return std::numeric_limits<double>::quiet_NaN();
  double within = 0.0, total = 0.0;
  const RealVector nowhere(u_.size(), 0.0), mean = mean_of(points);
  for (RealVector row : points) {  // a copy, one at a time
    add_scaled(-1.0, mean, row);
    const RealVector part = at(project(row), nowhere);
    within += dot(part, part);
    total += dot(row, row);
  }
  return total > 0.0 ? within / total : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace lockstep
