// The natural gradient, by products with the Fisher information.
#include <fmt/format.h>

#include <cmath>

#include "lockstep/core/error.h"
#include "lockstep/minimize/conjugate_gradients.h"
#include "lockstep/minimize/descent.h"

namespace lockstep {
namespace {

class NaturalGradient final : public Minimizer {
 public:
  explicit NaturalGradient(NaturalGradientOptions options) : options_(std::move(options)) {}
  std::string type() const override { return "natural_gradient"; }
  bool gauss_newton() const override { return true; }

  Move step(CountedProblem& problem, Iterate& at) override {
    const double size = norm(at.gradient);
    if (!(size > 0.0 && std::isfinite(size))) return Move::kStuck;
    const RealVector p = direction(problem, at, options_.residual * size);
    if (!all_finite(p)) return Move::kStuck;
    if (options_.rate > 0.0) return advance(problem, p, options_.rate, at) ? Move::kMoved : Move::kStuck;
    // Positive definite: every iterate of conjugate gradients descends, but for rounding.
    const double slope = dot(p, at.gradient);
    if (!(slope < 0.0 && std::isfinite(slope))) return Move::kStuck;
    const LineSearchResult found = descend(problem, options_.line_search, p, slope, 1.0, at);
    return found.end == LineSearchEnd::kFailed ? Move::kStuck : Move::kMoved;
  }
  std::map<std::string, RealVector> state(int64_t) const override { return {}; }
  void set_state(const std::map<std::string, RealVector>&) override {}
  int64_t held(int64_t n, int64_t) const override { return (4 + kVectorsOfSearch) * n; }

 private:
  // -(F + damping I)^-1 g
  RealVector direction(CountedProblem& problem, const Iterate& at, double residual) const {
    ConjugateGradients cg(at.gradient);
    for (int i = 0; i < options_.most_products; ++i) {
      problem.gauss_newton_product(at.x, cg.d, cg.ad);
      add_scaled(options_.damping, cg.d, cg.ad);
      if (!cg.curves() || std::sqrt(cg.advance()) <= residual) break;
    }
    return cg.p;
  }

  NaturalGradientOptions options_;
};

}  // namespace

std::unique_ptr<Minimizer> make_natural_gradient(const NaturalGradientOptions& options) {
  check(options.line_search);
  const auto require = [](bool holds, const char* option, const char* rule, double value) {
    if (!holds)
      fail(ErrorKind::kUsage, fmt::format("natural_gradient: {} must be {}: {}", option, rule, value));
  };
  require(options.damping > 0.0 && std::isfinite(options.damping), "damping", "positive", options.damping);
  require(options.most_products >= 1, "most_products", "at least 1", options.most_products);
  require(options.residual > 0.0 && options.residual < 1.0, "residual", "in (0, 1)", options.residual);
  require(options.rate >= 0.0 && std::isfinite(options.rate), "rate", "not negative", options.rate);
  return std::make_unique<NaturalGradient>(options);
}

}  // namespace lockstep
