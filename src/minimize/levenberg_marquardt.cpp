// Levenberg-Marquardt, by QR and by conjugate gradients.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "lockstep/core/error.h"
#include "lockstep/minimize/conjugate_gradients.h"
#include "lockstep/minimize/descent.h"

namespace lockstep {
namespace {

// What is left of the diagonal's older maximum after a step: scales that only the start had are forgotten.
constexpr double kFading = 0.98;

class LevenbergMarquardt final : public Minimizer {
 public:
  explicit LevenbergMarquardt(LevenbergMarquardtOptions options)
      : options_(std::move(options)), radius_(options_.initial_radius) {}
  std::string type() const override { return "levenberg_marquardt"; }

  Move step(CountedProblem& problem, Iterate& at) override {
    const int64_t n = problem.size(), m = problem.residual_count();
    if (m == 0) {
      fail(ErrorKind::kUsage,
           fmt::format("levenberg_marquardt: the problem of {} parameters is not a sum of squares", n));
    }
    require_size(n);
    if (!dense(n)) return step_by_products(problem, at);
    if (!fresh_) linearize(problem, at, diagonal_.empty());
    if (!fresh_) return Move::kStuck;

    // min |R p + Q'r|^2 + |sqrt(D / radius) p|^2
    DenseMatrix stacked(2 * n, n);
    const DenseMatrix& r = qr_->r();
    std::copy(r.elements.begin(), r.elements.end(), stacked.elements.begin());
    for (int64_t i = 0; i < n; ++i)
      stacked(n + i, i) = std::sqrt(diagonal_[static_cast<size_t>(i)] / radius_);
    const QrFactors damped(std::move(stacked));
    RealVector p = damped.solve(beside_zeros(reduced_, -1.0));
    // (|r|^2 - |r + J p|^2) / 2, of R and Q'r, whose rest is the same on both sides.
    const RealVector rp = multiply(r, p);
    const double predicted = -(dot(rp, reduced_) + 0.5 * dot(rp, rp));
    if (!all_finite(p) || !(predicted > 0.0)) return reject(norm(p), at);
    if (options_.acceleration > 0.0) {
      const RealVector bend = acceleration(problem, at, p, damped);
      const double length = scaled_norm(p);
      // Where the path bends more than this, the linearization says nothing about its end.
      if (!(2.0 * scaled_norm(bend) <= options_.acceleration * length)) return reject(norm(p), at);
      add_scaled(1.0, bend, p);
    }
    RealVector next = at.x;
    add_scaled(1.0, p, next);
    problem.place(next);
    if (next == at.x) return Move::kStuck;
    RealVector residuals;
    const double value = problem.residuals(next, residuals, nullptr);
    const double actual = at.value - value;
    const double ratio = actual / predicted;
    if (!(ratio > options_.accept)) return reject(norm(p), at);

    const Iterate before = at;
    at.x = std::move(next);
    fresh_ = false;
    linearize(problem, at, true);
    if (!fresh_) {
      at = before;
      linearize(problem, at, false);
      return reject(norm(p), at);
    }
    at.value = value;
    return accept(ratio);
  }
  void change_problem() override { fresh_ = false; }
  bool least_squares() const override { return true; }
  // The linearization follows from the parameters.
  std::map<std::string, RealVector> state(int64_t n) const override {
    RealVector diagonal = diagonal_;
    diagonal.resize(static_cast<size_t>(n));
    return {{"radius", {radius_}}, {"factor", {factor_}}, {"diagonal", std::move(diagonal)}};
  }
  void set_state(const std::map<std::string, RealVector>& state) override {
    radius_ = of_state(state, "radius").at(0);
    factor_ = of_state(state, "factor").at(0);
    diagonal_ = of_state(state, "diagonal");
    // No element of a diagonal is 0: there was none yet.
    if (largest(diagonal_) == 0.0) diagonal_.clear();
    fresh_ = false;
  }
  void require_size(int64_t n) const override {
    if (options_.solver == "qr") require_dense("levenberg_marquardt: solver = \"qr\"", n);
  }
  int64_t held(int64_t n, int64_t residuals) const override {
    if (!dense(n)) return (6 + kVectorsOfSearch) * n + residuals;
    const int64_t rows = std::max(n, residuals);
    return 5 * rows * n + 6 * n * n + 6 * rows;
  }

 private:
  bool dense(int64_t n) const {
    return options_.solver == "qr" || (options_.solver == "auto" && n <= kMostDenseParameters);
  }

  // Whether all is finite; else nothing of `at` has changed.
  bool scale_at(CountedProblem& problem, const RealVector& x) {
    RealVector squares;
    problem.gauss_newton_diagonal(x, squares);
    if (!all_finite(squares)) return false;
    scale_by_columns(squares);
    return true;
  }

  // -(J'J + D / radius)^-1 g by conjugate gradients, and how much the model of the squares falls by it: of
  // any number of iterations, not only of the last.
  std::pair<RealVector, double> solve_by_products(CountedProblem& problem, const Iterate& at) const {
    const size_t n = at.x.size();
    RealVector gp(n), gd;
    ConjugateGradients cg(at.gradient, [&](RealVector r) {
      for (size_t i = 0; i < n; ++i) r[i] /= diagonal_[i] * (1.0 + 1.0 / radius_);
      return r;
    });
    const double enough = options_.residual * options_.residual * cg.rz;
    for (int i = 0; i < options_.most_products && cg.rz > 0.0; ++i) {
      problem.gauss_newton_product(at.x, cg.d, gd);
      cg.ad = gd;
      for (size_t k = 0; k < n; ++k) cg.ad[k] += diagonal_[k] / radius_ * cg.d[k];
      if (!cg.curves()) break;
      add_scaled(cg.step, gd, gp);
      if (!(cg.advance() > enough)) break;
    }
    const double predicted = -(dot(at.gradient, cg.p) + 0.5 * dot(cg.p, gp));
    return {std::move(cg.p), predicted};
  }

  Move step_by_products(CountedProblem& problem, Iterate& at) {
    if (diagonal_.empty() && !scale_at(problem, at.x)) return Move::kStuck;
    const auto [p, predicted] = solve_by_products(problem, at);
    if (!all_finite(p) || !(predicted > 0.0)) return reject(norm(p), at);
    Iterate next{at.x, 0.0, {}};
    add_scaled(1.0, p, next.x);
    problem.place(next.x);
    if (next.x == at.x) return Move::kStuck;
    next.value = problem.value(next.x);
    const double ratio = (at.value - next.value) / predicted;
    if (!(ratio > options_.accept)) return reject(norm(p), at);
    next.value = problem.value_and_gradient(next.x, next.gradient);
    if (!std::isfinite(next.value) || !all_finite(next.gradient) || !scale_at(problem, next.x))
      return reject(norm(p), at);
    at = std::move(next);
    return accept(ratio);
  }

  Move accept(double ratio) {
    const double off = 2.0 * ratio - 1.0;
    radius_ = std::min(radius_ / std::max(1.0 / 3.0, 1.0 - off * off * off), options_.largest_radius);
    factor_ = 2.0;
    return Move::kMoved;
  }

  // D of the diagonal of J'J.
  void scale_by_columns(const RealVector& squares) {
    diagonal_.resize(squares.size(), options_.least_diagonal);
    for (size_t j = 0; j < squares.size(); ++j) {
      const double largest_yet = std::max(squares[j], kFading * diagonal_[j]);
      diagonal_[j] = std::clamp(largest_yet, options_.least_diagonal, options_.largest_diagonal);
    }
  }

  // J, its QR and Q'r at `at`, whose gradient becomes J'r, and D where that is a new point. fresh_ tells
  // whether all of it is finite.
  void linearize(CountedProblem& problem, Iterate& at, bool new_point) {
    const int64_t n = problem.size(), m = problem.residual_count();
    DenseMatrix jacobian(m, n);
    RealVector r;
    fresh_ = std::isfinite(problem.residuals(at.x, r, &jacobian));
    if (!fresh_) return;
    at.gradient = multiply_transposed(jacobian, r);
    if (new_point) scale_by_columns(column_squares(jacobian));
    residuals_ = r;
    if (m < n) {  // rows of zeros change nothing
      jacobian.elements.resize(static_cast<size_t>(n * n));
      jacobian.rows = n;
      r.resize(static_cast<size_t>(n));
    }
    jacobian_ = jacobian;
    qr_.emplace(std::move(jacobian));
    reduced_ = qr_->reduced(std::move(r));
    fresh_ = all_finite(at.gradient) && all_finite(qr_->r().elements) && all_finite(reduced_);
  }

  // (v, 0), v times `sign`.
  static RealVector beside_zeros(const RealVector& v, double sign) {
    RealVector whole(2 * v.size());
    for (size_t i = 0; i < v.size(); ++i) whole[i] = sign * v[i];
    return whole;
  }
  double scaled_norm(const RealVector& v) const {
    RealVector scaled = v;
    for (size_t i = 0; i < v.size(); ++i) scaled[i] *= std::sqrt(diagonal_[i]);
    return norm(scaled);
  }

  // What the step p bends by on the way: half of the damped solution for -r''(p, p), which is taken from a
  // difference.
  RealVector acceleration(CountedProblem& problem, const Iterate& at, const RealVector& p,
                          const QrFactors& damped) const {
    constexpr double h = 0.1;
    RealVector beyond = at.x, r;
    add_scaled(h, p, beyond);
    if (!std::isfinite(problem.residuals(beyond, r, nullptr))) {
      return RealVector(p.size(), std::numeric_limits<double>::infinity());
    }
    r.resize(static_cast<size_t>(jacobian_.rows));
    const RealVector jp = multiply(jacobian_, p);
    for (size_t i = 0; i < r.size(); ++i) {
      const double here = i < residuals_.size() ? residuals_[i] : 0.0;
      r[i] = 2.0 / h * ((r[i] - here) / h - jp[i]);
    }
    return damped.solve(beside_zeros(qr_->reduced(std::move(r)), -0.5));
  }

  Move reject(double length, const Iterate& at) {
    radius_ /= factor_;
    factor_ *= 2.0;
    const bool spent = length <= kEpsilon * norm(at.x) || radius_ < 1e-100;
    return spent ? Move::kStuck : Move::kRejected;
  }

  LevenbergMarquardtOptions options_;
  double radius_, factor_ = 2.0;
  RealVector diagonal_;
  bool fresh_ = false;           // the rest is that of the iterate
  DenseMatrix jacobian_{0, 0};   // with rows of zeros where it has fewer than columns
  std::optional<QrFactors> qr_;  // of it
  RealVector residuals_, reduced_;
};

}  // namespace

std::unique_ptr<Minimizer> make_levenberg_marquardt(const LevenbergMarquardtOptions& options) {
  const auto refuse = [](const char* rule, double value) {
    fail(ErrorKind::kUsage, fmt::format("levenberg_marquardt: {}: {}", rule, value));
  };
  if (options.solver != "auto" && options.solver != "qr" && options.solver != "cg") {
    fail(ErrorKind::kUsage,
         fmt::format("levenberg_marquardt: solver must be auto, qr or cg: {}", options.solver));
  }
  if (!(options.residual > 0.0 && options.residual < 1.0))
    refuse("residual must be in (0, 1)", options.residual);
  if (options.most_products < 1) refuse("most_products must be at least 1", options.most_products);
  if (!(options.initial_radius > 0.0)) refuse("initial_radius must be positive", options.initial_radius);
  if (!(options.largest_radius >= options.initial_radius)) {
    refuse("largest_radius must be at least initial_radius", options.largest_radius);
  }
  if (!(options.least_diagonal > 0.0)) refuse("least_diagonal must be positive", options.least_diagonal);
  if (!(options.largest_diagonal >= options.least_diagonal)) {
    refuse("largest_diagonal must be at least least_diagonal", options.largest_diagonal);
  }
  if (!(options.accept >= 0.0 && options.accept < 1.0)) refuse("accept must be in [0, 1)", options.accept);
  if (!(options.acceleration >= 0.0)) refuse("acceleration must not be negative", options.acceleration);
  return std::make_unique<LevenbergMarquardt>(options);
}

}  // namespace lockstep
