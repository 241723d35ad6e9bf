// Trust regions: the quadratic model minimized within a ball, by three solvers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/core/error.h"
#include "lockstep/minimize/conjugate_gradients.h"
#include "lockstep/minimize/descent.h"

namespace lockstep {
namespace {

// The roots t1 <= t2 of |z + t d| = radius, |z| <= radius, without cancellation.
std::pair<double, double> boundary_roots(const RealVector& z, const RealVector& d, double radius) {
  const double a = dot(d, d), b = dot(z, d), c = dot(z, z) - radius * radius;
  const double root = std::sqrt(std::max(0.0, b * b - a * c));
  const double q = -(b + (b >= 0.0 ? root : -root));
  const double first = q / a, second = q != 0.0 ? c / q : 0.0;
  return {std::min(first, second), std::max(first, second)};
}

class TrustRegion final : public Minimizer {
 public:
  explicit TrustRegion(TrustRegionOptions options)
      : options_(std::move(options)),
        gauss_newton_(is_gauss_newton("trust_region", options_.matrix)),
        radius_(options_.initial_radius) {}
  std::string type() const override { return "trust_region"; }
  bool gauss_newton() const override { return gauss_newton_; }

  Move step(CountedProblem& problem, Iterate& at) override {
    const Proposal proposal = options_.solver == "steihaug" ? steihaug(problem, at) : dense(problem, at);
    const double length = norm(proposal.p);
    // Once, where the first radius is what limits the step.
    if (!begun_) {
      const double telling =
          telling_step(problem, at.value, -norm(at.gradient), radius_, options_.largest_radius);
      if (telling > radius_ && length >= 0.99 * radius_) {
        set_radius(telling);
        return Move::kRejected;
      }
    }
    if (!(proposal.decrease > 0.0) || !std::isfinite(proposal.decrease) || !std::isfinite(length)) {
      return shrink(length, at);
    }
    Iterate next{at.x, 0.0, {}};
    add_scaled(1.0, proposal.p, next.x);
    problem.place(next.x);
    next.value = problem.value(next.x);
    // A difference that is made of rounding says nothing against the model.
    const double noise = 10.0 * std::numeric_limits<double>::epsilon() * std::max(1.0, std::fabs(at.value));
    const double actual = at.value - next.value;
    double ratio = actual / proposal.decrease;
    if (std::fabs(actual) <= noise && proposal.decrease <= noise) ratio = 1.0;
    // Not a number is no agreement either.
    double radius = radius_;
    if (!(ratio >= 0.25)) {
      radius = 0.25 * std::min(radius_, length);
    } else if (ratio > 0.75 && length >= 0.99 * radius_) {
      radius = std::min(2.0 * radius_, options_.largest_radius);
    }
    if (!(ratio > options_.accept)) {
      set_radius(radius);
      return radius_is_spent(at) ? Move::kStuck : Move::kRejected;
    }
    next.value = problem.value_and_gradient(next.x, next.gradient);
    set_radius(radius);
    if (!std::isfinite(next.value)) return shrink(length, at);
    if (next.x == at.x) return Move::kStuck;
    // Where values are made of rounding, only the gradient can tell progress.
    if (actual <= 0.0 && norm(next.gradient) >= norm(at.gradient)) return Move::kStuck;
    at = std::move(next);
    return Move::kMoved;
  }
  std::map<std::string, RealVector> state(int64_t) const override {
    return {{"radius", {begun_ ? radius_ : -radius_}}};
  }
  void require_size(int64_t n) const override {
    if (options_.solver != "steihaug") require_dense("trust_region", n);
  }
  int64_t held(int64_t n, int64_t) const override {
    const int64_t matrices = options_.solver == "steihaug" ? 0 : options_.solver == "exact" ? 5 : 3;
    return matrices * n * n + (4 + kVectorsOfSearch) * n;
  }
  void set_state(const std::map<std::string, RealVector>& state) override {
    radius_ = of_state(state, "radius").at(0);
    begun_ = radius_ > 0.0;
    radius_ = std::fabs(radius_);
  }

 private:
  struct Proposal {
    RealVector p;
    double decrease = 0.0;  // -(g'p + p'Bp/2)
  };

  Move shrink(double length, const Iterate& at) {
    set_radius(0.25 * (length > 0.0 && length < radius_ ? length : radius_));
    return radius_is_spent(at) ? Move::kStuck : Move::kRejected;
  }
  // Of the step to come; the one before has been taken or rejected.
  void set_radius(double radius) {
    radius_ = radius;
    begun_ = true;
  }
  bool radius_is_spent(const Iterate& at) const {
    return !(radius_ > std::numeric_limits<double>::epsilon() * norm(at.x)) || radius_ < 1e-300;
  }
  void product(CountedProblem& problem, const Iterate& at, const RealVector& v, RealVector& out) const {
    gauss_newton_ ? problem.gauss_newton_product(at.x, v, out) : problem.hessian_product(at.x, v, out);
  }

  Proposal steihaug(CountedProblem& problem, const Iterate& at) const {
    const RealVector& g = at.gradient;
    const double size = norm(g);
    const double tolerance = std::min(0.5, std::sqrt(size)) * size;
    RealVector bp(g.size());
    ConjugateGradients cg(g);
    bool within = true;
    for (int i = 0; i < options_.most_products && within && cg.rz > 0.0; ++i) {
      product(problem, at, cg.d, cg.ad);
      const bool curves = cg.curves();
      if (!std::isfinite(cg.curvature)) return {cg.p, std::numeric_limits<double>::quiet_NaN()};
      RealVector beyond = cg.p;
      add_scaled(cg.step, cg.d, beyond);
      within = curves && norm(beyond) < radius_;
      if (!within) {
        // d is a direction of descent of the model at p: with negative curvature the far root may still be
        // the better.
        const auto [first, second] = boundary_roots(cg.p, cg.d, radius_);
        const double slope = dot(cg.r, cg.d);
        const auto model = [&](double t) { return t * slope + 0.5 * t * t * cg.curvature; };
        cg.step = !curves && model(first) < model(second) ? first : second;
      }
      add_scaled(cg.step, cg.ad, bp);
      if (std::sqrt(cg.advance()) <= tolerance) break;
    }
    return {cg.p, -(dot(g, cg.p) + 0.5 * dot(cg.p, bp))};
  }

  Proposal dense(CountedProblem& problem, const Iterate& at) const {
    require_size(problem.size());
    const DenseMatrix b = dense_matrix(problem, at.x, gauss_newton_);
    if (!all_finite(b.elements)) return {at.gradient, std::numeric_limits<double>::quiet_NaN()};
    RealVector p;
    if (options_.solver == "exact") {
      p = exact(b, at.gradient);
    } else {
      DenseMatrix factor = b;
      if (!cholesky(factor)) return steihaug(problem, at);
      p = dogleg(b, factor, at.gradient);
    }
    return {p, -(dot(at.gradient, p) + 0.5 * dot(p, multiply(b, p)))};
  }

  RealVector dogleg(const DenseMatrix& b, const DenseMatrix& factor, const RealVector& g) const {
    RealVector newton = negated(g);
    solve_cholesky(factor, newton);
    if (norm(newton) <= radius_) return newton;
    RealVector cauchy = negated(g);
    scale_by(dot(g, g) / dot(g, multiply(b, g)), cauchy);
    const double length = norm(cauchy);
    if (!(length < radius_)) {
      scale_by(radius_ / length, cauchy);
      return cauchy;
    }
    add_scaled(-1.0, cauchy, newton);
    add_scaled(boundary_roots(cauchy, newton, radius_).second, newton, cauchy);
    return cauchy;
  }

  // p(l) = -(B + l I)^-1 g of length radius, by the eigenvalues of B: 1 / radius - 1 / |p(l)| is nearly
  // linear in l.
  RealVector exact(const DenseMatrix& b, const RealVector& g) const {
    const SymmetricEigen eigen = symmetric_eigen(b);
    const RealVector c = multiply_transposed(eigen.vectors, g);
    const double lowest = eigen.values.front();
    const double scale = std::max(largest(eigen.values), std::numeric_limits<double>::min());
    const auto step_at = [&](double shift) {
      RealVector q(c.size());
      for (size_t i = 0; i < c.size(); ++i) q[i] = c[i] == 0.0 ? 0.0 : -c[i] / (eigen.values[i] + shift);
      return q;
    };
    if (lowest > std::numeric_limits<double>::epsilon() * scale) {
      const RealVector q = step_at(0.0);
      if (norm(q) <= radius_) return multiply(eigen.vectors, q);
    }
    double low = std::max(0.0, -lowest), high = low + norm(g) / radius_ + scale;
    const double edge = low + 4.0 * std::numeric_limits<double>::epsilon() * scale;
    RealVector q = step_at(edge);
    if (norm(q) <= radius_) {
      // The hard case: what is missing to the boundary goes along the lowest eigenvector.
      RealVector along(c.size());
      along[0] = 1.0;
      const auto [first, second] = boundary_roots(q, along, radius_);
      q[0] += c[0] > 0.0 ? first : second;
      return multiply(eigen.vectors, q);
    }
    double shift = edge;
    for (int i = 0; i < 100; ++i) {
      q = step_at(shift);
      const double length = norm(q);
      if (std::fabs(length - radius_) <= 1e-10 * radius_) break;
      (length > radius_ ? low : high) = shift;
      double derivative = 0.0;  // -|p| d|p|/dl
      for (size_t k = 0; k < q.size(); ++k) derivative += q[k] * q[k] / (eigen.values[k] + shift);
      shift += length * length / derivative * ((length - radius_) / radius_);
      if (!(shift > low && shift < high)) shift = low + 0.5 * (high - low);
      if (high - low <= std::numeric_limits<double>::epsilon() * high) break;
    }
    const double length = norm(q);
    if (length > radius_) scale_by(radius_ / length, q);
    return multiply(eigen.vectors, q);
  }

  TrustRegionOptions options_;
  bool gauss_newton_;
  double radius_;
  bool begun_ = false;
};

}  // namespace

std::unique_ptr<Minimizer> make_trust_region(const TrustRegionOptions& options) {
  const auto refuse = [](const char* rule, const auto& value) {
    fail(ErrorKind::kUsage, fmt::format("trust_region: {}: {}", rule, value));
  };
  if (options.solver != "steihaug" && options.solver != "dogleg" && options.solver != "exact") {
    refuse("solver must be steihaug, dogleg or exact", options.solver);
  }
  if (!(options.initial_radius > 0.0)) refuse("initial_radius must be positive", options.initial_radius);
  if (!(options.largest_radius >= options.initial_radius)) {
    refuse("largest_radius must be at least initial_radius", options.largest_radius);
  }
  if (!(options.accept >= 0.0 && options.accept < 0.25))
    refuse("accept must be in [0, 0.25)", options.accept);
  if (options.most_products < 1) refuse("most_products must be at least 1", options.most_products);
  return std::make_unique<TrustRegion>(options);
}

}  // namespace lockstep
