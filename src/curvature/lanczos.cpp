// The recurrence of three terms, kept orthogonal.
#include "lockstep/curvature/lanczos.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/minimize/dense.h"

namespace lockstep {
namespace {

// Of what products make of a vector in the space, this share lies outside by rounding alone.
constexpr double kInvariant = 1e-13;

void make_orthogonal(const std::vector<RealVector>& basis, RealVector& vector) {
  for (int pass = 0; pass < 2; ++pass) {
    for (const RealVector& v : basis) add_scaled(-dot(v, vector), v, vector);
  }
}

SymmetricEigen eigen_of(const LanczosRun& run, int64_t rows) {
  DenseMatrix t(rows, rows);
  for (int64_t i = 0; i < rows; ++i) {
    t(i, i) = run.diagonal[static_cast<size_t>(i)];
    if (i > 0) t(i, i - 1) = run.below[static_cast<size_t>(i - 1)];
  }
  return symmetric_eigen(t);
}

}  // namespace

LanczosRun lanczos(const SymmetricProduct& product, RealVector start, const LanczosOptions& options) {
  LanczosRun run;
  const auto most = std::min(static_cast<size_t>(options.steps), start.size());
  RealVector next = std::move(start), image;
  double size = norm(next), largest_seen = 0.0;
  if (!(size > 0.0) || !std::isfinite(size))
    fail(ErrorKind::kNumeric, fmt::format("lanczos: a start of length {}", size));
  while (run.basis.size() < most) {
    scale_by(1.0 / size, next);
    run.basis.push_back(next);
    product(run.basis.back(), image);
    const double diagonal = dot(run.basis.back(), image);
    next = image;
    make_orthogonal(run.basis, next);
    size = norm(next);
    if (!std::isfinite(diagonal) || !std::isfinite(size)) {
      fail(ErrorKind::kNumeric,
           fmt::format("lanczos: product {} with the matrix is not finite", run.basis.size()));
    }
    largest_seen = std::max({largest_seen, std::fabs(diagonal), size});
    run.diagonal.push_back(diagonal);
    const bool invariant = size <= kInvariant * largest_seen;
    run.below.push_back(invariant ? 0.0 : size);
    if (options.enough && options.enough(run)) break;
    if (!invariant) continue;
    if (run.from_start == 0) run.from_start = std::ssize(run.basis);
    if (!options.restart || run.basis.size() == most) break;
    next = options.restart();
    make_orthogonal(run.basis, next);
    size = norm(next);
    if (!(size > kInvariant)) break;
  }
  if (run.from_start == 0) run.from_start = std::ssize(run.basis);
  return run;
}

std::vector<RitzValue> ritz_values(const LanczosRun& run, int64_t rows) {
  const SymmetricEigen eigen = eigen_of(run, rows);
  std::vector<RitzValue> result;
  for (int64_t j = 0; j < rows; ++j) {
    const double first = eigen.vectors(0, j);
    result.push_back({eigen.values[static_cast<size_t>(j)],
                      std::fabs(run.below[static_cast<size_t>(rows - 1)] * eigen.vectors(rows - 1, j)),
                      first * first});
  }
  return result;
}

RealVector ritz_vector(const LanczosRun& run, int64_t index) {
  const int64_t rows = std::ssize(run.basis);
  const SymmetricEigen eigen = eigen_of(run, rows);
  RealVector y(run.basis[0].size(), 0.0);
  for (int64_t i = 0; i < rows; ++i)
    add_scaled(eigen.vectors(i, index), run.basis[static_cast<size_t>(i)], y);
  scale_by(1.0 / norm(y), y);
  return y;
}

double measured_residual(const SymmetricProduct& product, const RitzValue& pair, const RealVector& vector) {
  RealVector image;
  product(vector, image);
  add_scaled(-pair.value, vector, image);
  return norm(image);
}

}  // namespace lockstep
