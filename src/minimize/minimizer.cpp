// Counting, and the loop around steps.
#include "lockstep/minimize/minimizer.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

double finite_or_infinity(double value) {
  return std::isfinite(value) ? value : std::numeric_limits<double>::infinity();
}

}  // namespace

double CountedProblem::value(const RealVector& x) {
  ++evaluations_.values;
  return finite_or_infinity(problem_.value(x));
}

double CountedProblem::value_and_gradient(const RealVector& x, RealVector& gradient) {
  ++evaluations_.gradients;
  const double value = problem_.value_and_gradient(x, gradient);
  return all_finite(gradient) ? finite_or_infinity(value) : std::numeric_limits<double>::infinity();
}

void CountedProblem::hessian_product(const RealVector& x, const RealVector& v, RealVector& out) {
  ++evaluations_.products;
  problem_.hessian_product(x, v, out);
}

void CountedProblem::gauss_newton_product(const RealVector& x, const RealVector& v, RealVector& out) {
  ++evaluations_.products;
  problem_.gauss_newton_product(x, v, out);
}

void CountedProblem::gauss_newton_diagonal(const RealVector& x, RealVector& out) {
  ++evaluations_.gradients;
  problem_.gauss_newton_diagonal(x, out);
}

double CountedProblem::residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian) {
  jacobian == nullptr ? ++evaluations_.values : ++evaluations_.gradients;
  problem_.residuals(x, r, jacobian);
  if (jacobian != nullptr && !all_finite(jacobian->elements)) return std::numeric_limits<double>::infinity();
  return finite_or_infinity(0.5 * dot(r, r));
}

const char* name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::kConverged:
      return "converged";
    case Outcome::kStuck:
      return "stuck";
    case Outcome::kOutOfSteps:
      return "out_of_steps";
    case Outcome::kOutOfEvaluations:
      return "out_of_evaluations";
    case Outcome::kNotFinite:
      break;
  }
  return "not_finite";
}

MinimizeResult minimize(Problem& problem, Minimizer& minimizer, RealVector x, const StopRules& rules,
                        const std::function<void(const Iterate& at)>& each) {
  if (static_cast<int64_t>(x.size()) != problem.size()) {
    fail(ErrorKind::kUsage,
         fmt::format("minimize: a start of {} numbers for a problem of {}", x.size(), problem.size()));
  }
  CountedProblem counted(problem);
  MinimizeResult result;
  result.at.x = std::move(x);
  problem.place(result.at.x);
  result.at.value = counted.value_and_gradient(result.at.x, result.at.gradient);
  if (each) each(result.at);
  result.outcome = Outcome::kOutOfSteps;
  if (!std::isfinite(result.at.value)) result.outcome = Outcome::kNotFinite;
  while (result.outcome == Outcome::kOutOfSteps) {
    if (largest(result.at.gradient) <= rules.gradient) {
      result.outcome = Outcome::kConverged;
      break;
    }
    const Evaluations& so_far = counted.evaluations();
    if (so_far.values + so_far.gradients >= rules.most_evaluations)
      result.outcome = Outcome::kOutOfEvaluations;
    if (result.outcome != Outcome::kOutOfSteps || result.steps == rules.most_steps) break;
    const Move move = minimizer.step(counted, result.at);
    ++result.steps;
    if (move == Move::kStuck) result.outcome = Outcome::kStuck;
    if (each) each(result.at);
  }
  result.evaluations = counted.evaluations();
  return result;
}

}  // namespace lockstep
