// Line searches along vectors.
#include "lockstep/minimize/descent.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/core/error.h"

namespace lockstep {

LineSearchResult descend(CountedProblem& problem, const LineSearchOptions& options, const RealVector& p,
                         double slope, double first_step, Iterate& at, bool with_gradient) {
  // The last trial and the best one, which is what a search accepts when it is not the last.
  Iterate last, best;
  double last_step = 0.0, best_step = 0.0;
  const auto phi = [&](double step, bool with_slope) -> LinePoint {
    last.x = at.x;
    add_scaled(step, p, last.x);
    problem.place(last.x);
    last_step = step;
    // A step that rounding swallows leads nowhere.
    if (last.x == at.x) return {step, std::numeric_limits<double>::infinity(), 0.0};
    last.gradient.clear();
    last.value = with_slope ? problem.value_and_gradient(last.x, last.gradient) : problem.value(last.x);
    const LinePoint point{step, last.value, with_slope ? dot(last.gradient, p) : 0.0};
    if (point.value <= at.value + options.decrease * step * slope &&
        (best_step == 0.0 || point.value < best.value)) {
      best = last;
      best_step = step;
    }
    return point;
  };
  LineSearchResult found = search_line(options, phi, at.value, slope, first_step);
  problem.searched(found.end);
  if (found.end == LineSearchEnd::kFailed) return found;
  Iterate& next = found.point.step == last_step ? last : best;
  if (next.gradient.empty() && with_gradient) {
    next.value = problem.value_and_gradient(next.x, next.gradient);
    if (!std::isfinite(next.value)) {
      problem.searched(LineSearchEnd::kFailed);
      return {LineSearchEnd::kFailed, {}, found.trials};
    }
  }
  std::swap(at, next);
  return found;
}

bool advance(CountedProblem& problem, const RealVector& p, double step, Iterate& at, bool with_gradient) {
  Iterate next;
  next.x = at.x;
  add_scaled(step, p, next.x);
  problem.place(next.x);
  if (next.x == at.x || !all_finite(next.x)) return false;
  next.value = std::numeric_limits<double>::quiet_NaN();
  if (with_gradient) {
    next.value = problem.value_and_gradient(next.x, next.gradient);
    if (!std::isfinite(next.value)) return false;
  }
  std::swap(at, next);
  return true;
}

double cautious_step(const RealVector& p) {
  double sum = 0.0;
  for (const double value : p) sum += std::fabs(value);
  return std::isfinite(sum) ? std::min(1.0, 1.0 / sum) : 1.0 / largest(p) / static_cast<double>(p.size());
}

double telling_step(const CountedProblem& problem, double value, double slope, double step, double longest) {
  if (!(-slope * step < problem.resolution() * std::fabs(value))) return step;
  return std::max(step, std::min(0.01 * std::fabs(value) / -slope, longest));
}

const RealVector& of_state(const std::map<std::string, RealVector>& state, const std::string& name) {
  const auto found = state.find(name);
  if (found == state.end()) fail(ErrorKind::kUsage, fmt::format("minimizer: its state has no {}", name));
  return found->second;
}

DenseMatrix dense_matrix(CountedProblem& problem, const RealVector& x, bool gauss_newton) {
  const int64_t n = problem.size();
  DenseMatrix matrix(n, n);
  RealVector unit(static_cast<size_t>(n)), row;
  for (int64_t i = 0; i < n; ++i) {
    unit[static_cast<size_t>(i)] = 1.0;
    gauss_newton ? problem.gauss_newton_product(x, unit, row) : problem.hessian_product(x, unit, row);
    unit[static_cast<size_t>(i)] = 0.0;
    std::copy(row.begin(), row.end(), matrix.row(i).begin());
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) matrix(i, j) = matrix(j, i) = 0.5 * matrix(i, j) + 0.5 * matrix(j, i);
  }
  return matrix;
}

void require_dense(const char* who, int64_t n) {
  if (n > kMostDenseParameters) {
    fail(ErrorKind::kUsage, fmt::format("{}: a dense matrix is kept of at most {} parameters: {}", who,
                                        kMostDenseParameters, n));
  }
}

bool is_gauss_newton(const char* who, const std::string& name) {
  if (name != "hessian" && name != "gauss_newton") {
    fail(ErrorKind::kUsage, fmt::format("{}: matrix must be hessian or gauss_newton: {}", who, name));
  }
  return name == "gauss_newton";
}

}  // namespace lockstep
