// Newton's method: with the dense second derivative, and truncated, by conjugate gradients.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/kernels/math/portable.h"
#include "lockstep/minimize/conjugate_gradients.h"
#include "lockstep/minimize/descent.h"

namespace lockstep {
namespace {

class Newton final : public Minimizer {
 public:
  explicit Newton(NewtonOptions options) : options_(std::move(options)) {}
  std::string type() const override { return "newton"; }

  Move step(CountedProblem& problem, Iterate& at) override {
    require_size(problem.size());
    const DenseMatrix hessian = dense_matrix(problem, at.x, false);
    if (!all_finite(hessian.elements)) return Move::kStuck;
    RealVector p = negated(at.gradient);
    DenseMatrix factor = hessian;
    if (cholesky(factor)) {
      solve_cholesky(factor, p);
    } else {
      p = along_absolute_eigenvalues(hessian, at.gradient);
    }
    // Rounding may leave no descent in a step that is nearly orthogonal to the gradient.
    const double slope = dot(p, at.gradient);
    if (slope < 0.0 && std::isfinite(slope) &&
        descend(problem, options_.line_search, p, slope, 1.0, at).end != LineSearchEnd::kFailed) {
      return Move::kMoved;
    }
    p = negated(at.gradient);
    const double steepest = -dot(p, p);
    if (!(steepest < 0.0 && std::isfinite(steepest))) return Move::kStuck;
    const double first = telling_step(problem, at.value, steepest, cautious_step(p), 1.0);
    const LineSearchResult found = descend(problem, options_.line_search, p, steepest, first, at);
    return found.end == LineSearchEnd::kFailed ? Move::kStuck : Move::kMoved;
  }
  std::map<std::string, RealVector> state(int64_t) const override { return {}; }
  void require_size(int64_t n) const override { require_dense("newton", n); }
  int64_t held(int64_t n, int64_t) const override { return 5 * n * n + kVectorsOfSearch * n; }
  void set_state(const std::map<std::string, RealVector>&) override {}

 private:
  // -V |D|^-1 V' g
  RealVector along_absolute_eigenvalues(const DenseMatrix& hessian, const RealVector& gradient) const {
    const SymmetricEigen eigen = symmetric_eigen(hessian);
    const double least = options_.floor * largest(eigen.values);
    RealVector along = multiply_transposed(eigen.vectors, gradient);
    for (size_t i = 0; i < along.size(); ++i) {
      const double curvature = std::max(std::fabs(eigen.values[i]), least);
      along[i] = curvature > 0.0 ? -along[i] / curvature : -along[i];
    }
    return multiply(eigen.vectors, along);
  }

  NewtonOptions options_;
};

class NewtonCg final : public Minimizer {
 public:
  explicit NewtonCg(NewtonCgOptions options)
      : options_(std::move(options)),
        gauss_newton_(is_gauss_newton("newton_cg", options_.matrix)),
        damping_(options_.damping) {}
  std::string type() const override { return "newton_cg"; }
  bool gauss_newton() const override { return gauss_newton_; }

  Move step(CountedProblem& problem, Iterate& at) override {
    const double size = norm(at.gradient);
    if (!(size > 0.0 && std::isfinite(size))) return Move::kStuck;
    double forcing = options_.first_forcing;
    if (gradient_norm_ > 0.0) {
      const double ratio = size / gradient_norm_;
      forcing = 0.9 * ratio * ratio;
      if (0.9 * forcing_ * forcing_ > 0.1) forcing = std::max(forcing, 0.9 * forcing_ * forcing_);
      forcing = std::min(forcing, options_.most_forcing);
    }
    const double value = at.value;
    auto [p, curvature] = direction(problem, at, forcing, size);
    double slope = dot(p, at.gradient);
    double first = 1.0;
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (slope < 0.0 && std::isfinite(slope)) {
        const LineSearchResult found = descend(problem, options_.line_search, p, slope, first, at);
        if (found.end != LineSearchEnd::kFailed) {
          gradient_norm_ = size;
          forcing_ = forcing;
          probes_ += static_cast<uint32_t>(options_.preconditioner_products);
          const double step = found.point.step;
          adapt(curvature > 0.0 ? (at.value - value) / (step * (slope + 0.5 * step * curvature)) : 0.0);
          return Move::kMoved;
        }
      }
      p = negated(at.gradient);
      curvature = 0.0;
      slope = -dot(p, p);
      first = telling_step(problem, at.value, slope, cautious_step(p), 1.0);
    }
    return Move::kStuck;
  }
  std::map<std::string, RealVector> state(int64_t) const override {
    std::map<std::string, RealVector> state = {{"gradient_norm", {gradient_norm_}}, {"forcing", {forcing_}}};
    if (damping_ > 0.0) state["damping"] = {damping_};
    if (options_.preconditioner_products > 0) state["probes"] = {static_cast<double>(probes_)};
    return state;
  }
  int64_t held(int64_t n, int64_t) const override {
    return (4 + (options_.preconditioner_products > 0 ? 4 : 0) + kVectorsOfSearch) * n;
  }
  void set_state(const std::map<std::string, RealVector>& state) override {
    if (options_.preconditioner_products > 0)
      probes_ = static_cast<uint32_t>(of_state(state, "probes").at(0));
    gradient_norm_ = of_state(state, "gradient_norm").at(0);
    forcing_ = of_state(state, "forcing").at(0);
    if (damping_ > 0.0) damping_ = of_state(state, "damping").at(0);
  }

 private:
  struct Direction {
    RealVector p;
    double curvature;  // p'B p of the minimum along what conjugate gradients have seen; 0: p is none
  };

  void multiply(CountedProblem& problem, const RealVector& x, const RealVector& v, RealVector& out) const {
    gauss_newton_ ? problem.gauss_newton_product(x, v, out) : problem.hessian_product(x, v, out);
  }

  // The inverse of what is like the matrix on its diagonal; empty: it says nothing.
  RealVector inverse_diagonal(CountedProblem& problem, const RealVector& x) const {
    RealVector diagonal(x.size()), product;
    for (int probe = 0; probe < options_.preconditioner_products; ++probe) {
      const RealVector signs = random_signs(0, probes_ + static_cast<uint32_t>(probe), x.size());
      multiply(problem, x, signs, product);
      for (size_t i = 0; i < signs.size(); ++i) diagonal[i] += signs[i] * product[i];
    }
    double sum = 0.0;
    for (double& element : diagonal) sum += element = std::abs(element / options_.preconditioner_products);
    // None that the estimate has by accident near 0.
    const double least = 1e-2 * sum / static_cast<double>(diagonal.size()) + damping_;
    if (!(least > 0.0 && std::isfinite(sum))) return {};
    for (double& element : diagonal) element = math::portable::power(element + least, -0.75);
    return diagonal;
  }

  Direction direction(CountedProblem& problem, const Iterate& at, double forcing, double size) const {
    const RealVector inverse =
        options_.preconditioner_products > 0 ? inverse_diagonal(problem, at.x) : RealVector();
    ConjugateGradients cg(at.gradient, [&inverse](RealVector r) {
      for (size_t i = 0; i < inverse.size(); ++i) r[i] *= inverse[i];
      return r;
    });
    const double residual = forcing * (inverse.empty() ? size : std::sqrt(cg.rz));
    for (int i = 0; i < options_.most_products; ++i) {
      multiply(problem, at.x, cg.d, cg.ad);
      if (damping_ > 0.0) add_scaled(damping_, cg.d, cg.ad);
      if (!cg.curves() || !(cg.curvature > 3.0 * 2.2e-16 * dot(cg.d, cg.d))) {
        // Against the gradient by what a curvature of that size would ask for, or as far as it was convex.
        if (i == 0 && cg.curvature < 0.0) add_scaled(-cg.step, cg.d, cg.p);
        if (i == 0) return {largest(cg.p) > 0.0 ? cg.p : negated(at.gradient), 0.0};
        break;
      }
      if (std::sqrt(cg.advance()) <= residual) break;
    }
    if (!(largest(cg.p) > 0.0)) return {negated(at.gradient), 0.0};
    return {cg.p, dot(cg.p, cg.r) - dot(cg.p, at.gradient)};  // r = B p + g
  }

  // ratio: of what f was lowered by to what the model promised.
  void adapt(double ratio) {
    constexpr double kMost = 1e10, kLeast = 1e-30;
    if (damping_ == 0.0) return;
    if (!(ratio >= 0.25)) damping_ *= 1.5;
    if (ratio > 0.75) damping_ *= 2.0 / 3.0;
    damping_ = std::clamp(damping_, kLeast, kMost);
  }

  NewtonCgOptions options_;
  bool gauss_newton_;
  double damping_;                              // of the next step; 0: none
  double gradient_norm_ = 0.0, forcing_ = 0.0;  // of the step before
  uint32_t probes_ = 0;                         // of the steps so far
};

}  // namespace

std::unique_ptr<Minimizer> make_newton(const NewtonOptions& options) {
  check(options.line_search);
  if (!(options.floor > 0.0 && options.floor < 1.0)) {
    fail(ErrorKind::kUsage, fmt::format("newton: floor must be in (0, 1): {}", options.floor));
  }
  return std::make_unique<Newton>(options);
}

std::unique_ptr<Minimizer> make_newton_cg(const NewtonCgOptions& options) {
  check(options.line_search);
  if (options.most_products < 1) {
    fail(ErrorKind::kUsage,
         fmt::format("newton_cg: most_products must be at least 1: {}", options.most_products));
  }
  if (options.preconditioner_products < 0) {
    fail(ErrorKind::kUsage, fmt::format("newton_cg: preconditioner_products must be at least 0: {}",
                                        options.preconditioner_products));
  }
  if (!(options.damping >= 0.0 && std::isfinite(options.damping))) {
    fail(ErrorKind::kUsage,
         fmt::format("newton_cg: damping must be finite and at least 0: {}", options.damping));
  }
  for (const double forcing : {options.first_forcing, options.most_forcing}) {
    if (!(forcing > 0.0 && forcing < 1.0)) {
      fail(ErrorKind::kUsage,
           fmt::format("newton_cg: first_forcing and most_forcing must be in (0, 1): {}", forcing));
    }
  }
  return std::make_unique<NewtonCg>(options);
}

}  // namespace lockstep
