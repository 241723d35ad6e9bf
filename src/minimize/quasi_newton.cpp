// Methods that see gradients alone: steepest descent, BFGS and its limited-memory form, with line searches.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <optional>

#include "lockstep/core/error.h"
#include "lockstep/minimize/descent.h"

namespace lockstep {
namespace {

class LineDescent final : public Minimizer {
 public:
  LineDescent(const char* type, std::optional<double> momentum, LineSearchOptions line_search)
      : type_(type), momentum_(momentum), line_search_(std::move(line_search)) {}
  std::string type() const override { return type_; }

  Move step(CountedProblem& problem, Iterate& at) override {
    const double before = at.value;
    // First as far as the step before lets expect, then along the gradient alone and with caution.
    for (int attempt = expected_ > 0.0 || !velocity_.empty() ? 0 : 1; attempt < 2; ++attempt) {
      RealVector v = at.gradient;
      if (attempt == 0 && !velocity_.empty()) add_scaled(*momentum_, velocity_, v);
      const RealVector p = negated(v);
      const double slope = dot(at.gradient, p);
      if (!(slope < 0.0 && std::isfinite(slope))) continue;
      double first = attempt == 0 && expected_ > 0.0 ? 2.02 * expected_ / -slope : 0.0;
      if (!(first > 0.0 && std::isfinite(first)))
        first = telling_step(problem, at.value, slope, cautious_step(p), 1.0);
      if (descend(problem, line_search_, p, slope, first, at).end == LineSearchEnd::kFailed) continue;
      expected_ = before - at.value;
      if (momentum_) velocity_ = std::move(v);
      return Move::kMoved;
    }
    return Move::kStuck;
  }
  std::map<std::string, RealVector> state(int64_t n) const override {
    std::map<std::string, RealVector> state = {{"expected_decrease", {expected_}}};
    if (!momentum_) return state;
    state["velocity"] = velocity_;
    state["velocity"].resize(static_cast<size_t>(n));
    return state;
  }
  int64_t held(int64_t n, int64_t) const override { return ((momentum_ ? 2 : 0) + kVectorsOfSearch) * n; }
  void set_state(const std::map<std::string, RealVector>& state) override {
    expected_ = of_state(state, "expected_decrease").at(0);
    if (!momentum_) return;
    velocity_ = of_state(state, "velocity");
    if (largest(velocity_) == 0.0) velocity_.clear();
  }

 private:
  const char* type_;
  std::optional<double> momentum_;  // none: a velocity is not kept
  LineSearchOptions line_search_;
  double expected_ = 0.0;  // of the step before; 0: not known
  RealVector velocity_;    // that of the step before; empty: there was none
};

// Goes along a quasi-Newton direction unless nothing is known yet (`fresh`); where that is none of descent or
// leads nowhere, along -g, and what was known is to be forgotten: `fresh` becomes true. go_along(p, slope,
// first step) moves `at` and returns by how many times p, 0 where it failed. Returns that of where it went, 0
// when both failed; s becomes the difference of points.
template <typename Direction, typename GoAlong>
double descend_or_forget(bool& fresh, const Direction& direction, const GoAlong& go_along, Iterate& at,
                         RealVector& s) {
  for (int attempt = fresh ? 1 : 0; attempt < 2; ++attempt) {
    const RealVector p = attempt == 0 ? direction() : negated(at.gradient);
    const double slope = dot(at.gradient, p);
    if (!(slope < 0.0 && std::isfinite(slope))) continue;
    const RealVector from = at.x;
    const double went = go_along(p, slope, attempt == 0 ? 1.0 : cautious_step(p));
    if (went == 0.0) continue;
    s = at.x;
    add_scaled(-1.0, from, s);
    fresh = attempt == 1;
    return went;
  }
  fresh = true;
  return 0.0;
}

class Bfgs final : public Minimizer {
 public:
  explicit Bfgs(BfgsOptions options) : options_(std::move(options)) {}
  std::string type() const override { return "bfgs"; }

  Move step(CountedProblem& problem, Iterate& at) override {
    const int64_t n = problem.size();
    require_size(n);
    const RealVector before = at.gradient;
    RealVector s;
    const auto direction = [&] {
      DenseMatrix h(n, n);
      h.elements = inverse_;
      return negated(multiply(h, at.gradient));
    };
    const auto go_along = [&](const RealVector& p, double slope, double first) {
      first = telling_step(problem, at.value, slope, first, 1.0);
      return descend(problem, options_.line_search, p, slope, first, at).point.step;
    };
    bool fresh = inverse_.empty();
    const double went = descend_or_forget(fresh, direction, go_along, at, s);
    if (fresh) inverse_.clear();
    if (went == 0.0) return Move::kStuck;
    RealVector y = at.gradient;
    add_scaled(-1.0, before, y);
    update(s, y);
    return Move::kMoved;
  }
  std::map<std::string, RealVector> state(int64_t n) const override {
    RealVector inverse = inverse_;
    inverse.resize(static_cast<size_t>(n * n));
    return {{"known", {inverse_.empty() ? 0.0 : 1.0}}, {"inverse", std::move(inverse)}};
  }
  void set_state(const std::map<std::string, RealVector>& state) override {
    const RealVector& inverse = of_state(state, "inverse");
    inverse_ = of_state(state, "known").at(0) != 0.0 ? inverse : RealVector();
  }
  void require_size(int64_t n) const override { require_dense("bfgs", n); }
  int64_t held(int64_t n, int64_t) const override { return 2 * n * n + kVectorsOfSearch * n; }

 private:
  // H <- (I - s y'/y's) H (I - y s'/y's) + s s'/y's
  void update(const RealVector& s, const RealVector& y) {
    const double ys = dot(y, s), yy = dot(y, y);
    if (!(ys > kEpsilon * norm(y) * norm(s)) || !std::isfinite(ys / yy) || !(ys / yy > 0.0)) return;
    const auto n = static_cast<int64_t>(s.size());
    DenseMatrix h(n, n);
    if (inverse_.empty()) {
      for (int64_t i = 0; i < n; ++i) h(i, i) = ys / yy;
    } else {
      h.elements = inverse_;
    }
    const RealVector hy = multiply(h, y);
    const double factor = (1.0 + dot(y, hy) / ys) / ys;
    for (int64_t i = 0; i < n; ++i) {
      const auto at_i = static_cast<size_t>(i);
      for (int64_t j = 0; j < n; ++j) {
        const auto at_j = static_cast<size_t>(j);
        h(i, j) += factor * (s[at_i] * s[at_j]) - (hy[at_i] * s[at_j] + s[at_i] * hy[at_j]) / ys;
      }
    }
    inverse_ = std::move(h.elements);
  }

  BfgsOptions options_;
  RealVector inverse_;  // (n, n), empty before the first pair
};

class Lbfgs final : public Minimizer {
 public:
  explicit Lbfgs(LbfgsOptions options) : options_(std::move(options)) {}
  std::string type() const override { return "lbfgs"; }

  Move step(CountedProblem& problem, Iterate& at) override {
    const bool shares = options_.overlap > 0;
    if (shares && !at.shared) fail(ErrorKind::kUsage, "lbfgs: overlap: the problem's batches share nothing");
    const std::optional<SharedGradients> shared = at.shared;
    const bool learnt = shares && end_pair(*shared);
    const RealVector before = at.gradient;
    RealVector s;
    const auto direction = [&] { return negated(apply_inverse(at.gradient)); };
    const auto go_along = [&](const RealVector& p, double slope, double first) {
      const double step = options_.rate * first;
      if (options_.rate > 0.0) return advance(problem, p, step, at, !shares) ? step : 0.0;
      first = telling_step(problem, at.value, slope, first, 1.0);
      return descend(problem, options_.line_search, p, slope, first, at, !shares).point.step;
    };
    bool fresh = pairs_.empty();
    double went = 0.0;
    try {
      went = descend_or_forget(fresh, direction, go_along, at, s);
    } catch (...) {
      if (learnt) pairs_.pop_back();
      throw;
    }
    begun_.reset();
    if (fresh) pairs_.clear();
    if (went == 0.0) return Move::kStuck;
    // B s, B the matrix whose inverse gave the direction: s = -went B^-1 g.
    RealVector bs = before;
    scale_by(-went, bs);
    if (!shares) {
      RealVector y = at.gradient;
      add_scaled(-1.0, before, y);
      remember(std::move(s), std::move(y), bs);
    } else if (!shared->after.empty()) {
      begun_ = {shared->batch, std::move(s), std::move(bs), shared->after};
    }
    if (pairs_.size() > static_cast<size_t>(options_.history)) pairs_.pop_front();
    return Move::kMoved;
  }
  int64_t overlap() const override { return options_.overlap; }

  std::map<std::string, RealVector> state(int64_t n) const override {
    RealVector s, y;
    for (const Pair& pair : pairs_) {
      s.insert(s.end(), pair.s.begin(), pair.s.end());
      y.insert(y.end(), pair.y.begin(), pair.y.end());
    }
    s.resize(static_cast<size_t>(options_.history * n));
    y.resize(static_cast<size_t>(options_.history * n));
    std::map<std::string, RealVector> state = {
        {"pairs", {static_cast<double>(pairs_.size())}}, {"s", std::move(s)}, {"y", std::move(y)}};
    if (options_.overlap == 0) return state;
    const RealVector none(static_cast<size_t>(n));
    state["begun_batch"] = {begun_ ? static_cast<double>(begun_->batch) : -1.0};
    state["begun_s"] = begun_ ? begun_->s : none;
    state["begun_bs"] = begun_ ? begun_->bs : none;
    state["begun_gradient"] = begun_ ? begun_->gradient : none;
    return state;
  }
  int64_t held(int64_t n, int64_t) const override {
    // Of shared batches: what has begun, a pair more than the history, and both gradients three times.
    return (2 * options_.history + kVectorsOfSearch + (options_.overlap > 0 ? 11 : 0)) * n;
  }
  void set_state(const std::map<std::string, RealVector>& state) override {
    const auto count = static_cast<size_t>(of_state(state, "pairs").at(0));
    const RealVector &s = of_state(state, "s"), &y = of_state(state, "y");
    const size_t n = s.size() / static_cast<size_t>(options_.history);
    pairs_.clear();
    for (size_t i = 0; i < count; ++i) {
      const auto from = static_cast<std::ptrdiff_t>(i * n);
      const auto to = static_cast<std::ptrdiff_t>((i + 1) * n);
      pairs_.push_back(made({s.begin() + from, s.begin() + to}, {y.begin() + from, y.begin() + to}));
    }
    begun_.reset();
    if (options_.overlap == 0 || of_state(state, "begun_batch").at(0) < 0.0) return;
    begun_ = {static_cast<int64_t>(state.at("begun_batch").at(0)), of_state(state, "begun_s"),
              of_state(state, "begun_bs"), of_state(state, "begun_gradient")};
  }

 private:
  struct Pair {
    RealVector s, y;
    double ys, yy;
  };
  // A pair whose y waits for the next batch.
  struct Begun {
    int64_t batch;
    RealVector s, bs;
    RealVector gradient;  // over what the batch shares with the next, where it began
  };
  static Pair made(RealVector s, RealVector y) {
    const double ys = dot(y, s), yy = dot(y, y);
    return {std::move(s), std::move(y), ys, yy};
  }

  // The two-loop recursion (Nocedal and Wright 2006, algorithm 7.4).
  RealVector apply_inverse(RealVector q) const {
    if (pairs_.empty()) return q;
    const auto history = static_cast<size_t>(options_.history);
    const size_t oldest = pairs_.size() - std::min(pairs_.size(), history);
    RealVector a(pairs_.size());
    for (size_t i = pairs_.size(); i-- > oldest;) {
      a[i] = dot(pairs_[i].s, q) / pairs_[i].ys;
      add_scaled(-a[i], pairs_[i].y, q);
    }
    scale_by(pairs_.back().ys / pairs_.back().yy, q);
    for (size_t i = oldest; i < pairs_.size(); ++i) {
      add_scaled(a[i] - dot(pairs_[i].y, q) / pairs_[i].ys, pairs_[i].s, q);
    }
    return q;
  }

  // The pair of the step before, where that was on the batch before. Returns whether it is kept; the oldest
  // one is still there then.
  bool end_pair(const SharedGradients& shared) {
    if (!begun_ || begun_->batch + 1 != shared.batch || shared.before.empty()) return false;
    RealVector y = shared.before;
    add_scaled(-1.0, begun_->gradient, y);
    add_scaled(shared.l2, begun_->s, y);
    return remember(begun_->s, std::move(y), begun_->bs);
  }

  // Returns whether the pair is kept.
  bool remember(RealVector s, RealVector y, const RealVector& bs) {
    double ys = dot(y, s);
    if (!std::isfinite(ys)) return false;
    // Before the first pair nothing is known of the curvature, and any that is positive counts.
    const double sbs = dot(s, bs);
    if (!pairs_.empty() && sbs > 0.0 && ys < options_.least_curvature * sbs) {
      if (options_.pair == "reject") return false;
      const double theta = (1.0 - options_.least_curvature) * sbs / (sbs - ys);
      scale_by(theta, y);
      add_scaled(1.0 - theta, bs, y);
      ys = dot(y, s);
    }
    if (!(ys > kEpsilon * norm(y) * norm(s))) return false;
    Pair pair = made(std::move(s), std::move(y));
    if (!(pair.ys > 0.0 && std::isfinite(pair.yy) && std::isfinite(pair.ys / pair.yy))) return false;
    pairs_.push_back(std::move(pair));
    return true;
  }

  LbfgsOptions options_;
  std::deque<Pair> pairs_;  // oldest first
  std::optional<Begun> begun_;
};

}  // namespace

std::unique_ptr<Minimizer> make_line_descent(const LineDescentOptions& options) {
  check(options.line_search);
  return std::make_unique<LineDescent>("gradient_descent", std::nullopt, options.line_search);
}

std::unique_ptr<Minimizer> make_momentum_descent(const MomentumDescentOptions& options) {
  check(options.line_search);
  if (!(options.momentum >= 0.0 && options.momentum < 1.0))
    fail(ErrorKind::kUsage, fmt::format("momentum: momentum must be in [0, 1): {}", options.momentum));
  return std::make_unique<LineDescent>("momentum", options.momentum, options.line_search);
}

std::unique_ptr<Minimizer> make_bfgs(const BfgsOptions& options) {
  check(options.line_search);
  return std::make_unique<Bfgs>(options);
}

std::unique_ptr<Minimizer> make_lbfgs(const LbfgsOptions& options) {
  check(options.line_search);
  if (options.history < 1)
    fail(ErrorKind::kUsage, fmt::format("lbfgs: history must be at least 1: {}", options.history));
  if (options.overlap < 0)
    fail(ErrorKind::kUsage, fmt::format("lbfgs: overlap must not be negative: {}", options.overlap));
  if (!(options.rate >= 0.0 && std::isfinite(options.rate)))
    fail(ErrorKind::kUsage, fmt::format("lbfgs: rate must not be negative: {}", options.rate));
  if (options.overlap > 0 && options.rate == 0.0 && options.line_search.type != "armijo") {
    fail(ErrorKind::kUsage,
         fmt::format("lbfgs: overlap: not with line_search.type = \"{}\", which asks for the gradient of the "
                     "whole batch wherever it looks: take \"armijo\", a rate, or an overlap of 0",
                     options.line_search.type));
  }
  if (options.pair != "damp" && options.pair != "reject") {
    fail(ErrorKind::kUsage, fmt::format("lbfgs: pair must be damp or reject: {}", options.pair));
  }
  if (!(options.least_curvature > 0.0 && options.least_curvature < 1.0)) {
    fail(ErrorKind::kUsage,
         fmt::format("lbfgs: least_curvature must be in (0, 1): {}", options.least_curvature));
  }
  return std::make_unique<Lbfgs>(options);
}

}  // namespace lockstep
