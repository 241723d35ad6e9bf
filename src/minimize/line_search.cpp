// Backtracking, bracket and zoom, and the method of Moré and Thuente.
#include "lockstep/minimize/line_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/core/error.h"
#include "lockstep/minimize/vectors.h"

namespace lockstep {
namespace {

// What the searches share: trials, their count, and what is accepted.
class Search {
 public:
  Search(const LineSearchOptions& options, const LineFunction& phi, double value, double slope)
      : options_(options), phi_(phi), start_{0.0, value, slope} {}

  bool exhausted() const { return trials_ >= options_.most_trials; }
  LinePoint at(double step, bool with_slope = true) {
    ++trials_;
    LinePoint point = phi_(step, with_slope);
    point.step = step;
    if (!std::isfinite(point.value) || (with_slope && !std::isfinite(point.slope))) {
      point.value = std::numeric_limits<double>::infinity();
      point.slope = 0.0;
    } else if (decreases(point) && (best_.step == 0.0 || point.value < best_.value)) {
      best_ = point;
    }
    return point;
  }
  const LinePoint& start() const { return start_; }
  const LineSearchOptions& options() const { return options_; }

  bool decreases(const LinePoint& point) const {
    return point.value <= start_.value + options_.decrease * point.step * start_.slope;
  }
  // Where values are made of rounding, and slopes alone tell where the minimum lies.
  bool is_flat(const LinePoint& point) const {
    const double slack = options_.flat * std::fabs(start_.value);
    return std::fabs(point.step * start_.slope) <= slack && std::fabs(point.value - start_.value) <= slack;
  }
  bool is_wolfe(const LinePoint& point) const {
    return std::fabs(point.slope) <= -options_.curvature * start_.slope && std::isfinite(point.value) &&
           (decreases(point) || decreases_approximately(point));
  }
  bool decreases_approximately(const LinePoint& point) const {
    return is_flat(point) && point.slope <= (2.0 * options_.decrease - 1.0) * start_.slope;
  }
  LineSearchResult accept(LineSearchEnd end, const LinePoint& point) const { return {end, point, trials_}; }
  LineSearchResult give_up() const {
    if (best_.step > 0.0) return accept(LineSearchEnd::kArmijoOnly, best_);
    return accept(LineSearchEnd::kFailed, start_);
  }

 private:
  const LineSearchOptions& options_;
  const LineFunction& phi_;
  LinePoint start_, best_ = {};
  int trials_ = 0;
};

// Of the cubic through two points with their slopes; not finite where there is none.
double cubic_minimizer(const LinePoint& a, const LinePoint& b) {
  const double d1 = a.slope + b.slope - 3.0 * (a.value - b.value) / (a.step - b.step);
  const double square = d1 * d1 - a.slope * b.slope;
  if (!(square >= 0.0)) return std::numeric_limits<double>::quiet_NaN();
  const double d2 = b.step > a.step ? std::sqrt(square) : -std::sqrt(square);
  return b.step - (b.step - a.step) * (b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2);
}

// Of the parabola through a with its slope and through b.
double quadratic_minimizer(const LinePoint& a, const LinePoint& b) {
  const double h = b.step - a.step;
  return a.step - a.slope * h * h / (2.0 * (b.value - a.value - a.slope * h));
}

LineSearchResult backtrack(Search& search, double step) {
  while (!search.exhausted()) {
    const LinePoint trial = search.at(step, false);
    if (search.decreases(trial)) return search.accept(LineSearchEnd::kArmijoOnly, trial);
    const double guess = quadratic_minimizer(search.start(), trial);
    step = std::isfinite(guess) ? std::clamp(guess, 0.1 * step, 0.5 * step) : 0.1 * step;
    if (!(step > 0.0)) break;
  }
  return search.give_up();
}

// lo decreases enough and is the best so far; the minimum lies between it and hi.
LineSearchResult zoom(Search& search, LinePoint lo, LinePoint hi) {
  while (!search.exhausted()) {
    // Widths are distances: hi may lie on either side.
    const double width = std::fabs(hi.step - lo.step);
    if (width <= kEpsilon * std::max(lo.step, hi.step)) break;
    const auto inside = [&](double step, double margin) {
      return step >= std::min(lo.step, hi.step) + margin * width &&
             step <= std::max(lo.step, hi.step) - margin * width;
    };
    const bool flat = search.is_flat(lo) && search.is_flat(hi);
    double step = std::isfinite(hi.value) ? cubic_minimizer(lo, hi) : lo.step + 0.1 * (hi.step - lo.step);
    if (flat) step = lo.step - lo.slope * (hi.step - lo.step) / (hi.slope - lo.slope);
    if (std::isfinite(hi.value)) {
      if (!inside(step, 0.2)) step = quadratic_minimizer(lo, hi);
      if (!inside(step, 0.1)) step = lo.step + 0.5 * (hi.step - lo.step);
    }
    const LinePoint trial = search.at(step);
    if (search.is_wolfe(trial)) return search.accept(LineSearchEnd::kWolfe, trial);
    const bool by_slope = flat && search.is_flat(trial);
    if (!by_slope && (!search.decreases(trial) || trial.value >= lo.value)) {
      hi = trial;
    } else {
      if (trial.slope * (hi.step - lo.step) >= 0.0) hi = lo;
      lo = trial;
    }
  }
  return search.give_up();
}

LineSearchResult strong_wolfe(Search& search, double step) {
  LinePoint previous = search.start();
  while (!search.exhausted()) {
    const LinePoint trial = search.at(step);
    if (search.is_wolfe(trial)) return search.accept(LineSearchEnd::kWolfe, trial);
    const bool higher = !search.decreases(trial) || (previous.step > 0.0 && trial.value >= previous.value);
    if (higher && !search.is_flat(trial)) return zoom(search, previous, trial);
    if (trial.slope >= 0.0) return zoom(search, trial, previous);
    if (step >= search.options().longest_step) break;
    const double guess = cubic_minimizer(previous, trial);
    const double least = step + 0.01 * (step - previous.step);
    step = std::isfinite(guess) && guess > step ? std::clamp(guess, least, 10.0 * step) : 10.0 * step;
    step = std::min(step, search.options().longest_step);
    previous = trial;
  }
  return search.give_up();
}

double sign_of(double x) {
  return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : 0.0;
}

// The interval of Moré and Thuente: its end with the least value, x; the other one, y; and what the next
// trial is (their section 4: dcstep of MINPACK-2).
struct Interval {
  LinePoint x, y;
  bool bracketed = false;

  double next(const LinePoint& p, double least, double most) {
    const double sign = sign_of(p.slope) * sign_of(x.slope);
    // gamma of the cubic through two of the points, scaled against overflow.
    const auto gamma_of = [](double theta, double first, double second, bool clipped) {
      const double s = std::max({std::fabs(theta), std::fabs(first), std::fabs(second)});
      const double square = (theta / s) * (theta / s) - (first / s) * (second / s);
      return s * std::sqrt(clipped ? std::max(0.0, square) : square);
    };
    const double theta = 3.0 * (x.value - p.value) / (p.step - x.step) + x.slope + p.slope;
    double step = 0.0;
    if (!std::isfinite(p.value)) {
      step = x.step + 0.1 * (p.step - x.step);
      bracketed = true;
    } else if (p.value > x.value) {
      // A higher value: the cubic step when closer to x than the quadratic one, else their mean.
      double gamma = gamma_of(theta, x.slope, p.slope, false);
      if (p.step < x.step) gamma = -gamma;
      const double r = ((gamma - x.slope) + theta) / (((gamma - x.slope) + gamma) + p.slope);
      const double cubic = x.step + r * (p.step - x.step);
      const double slope = (x.value - p.value) / (p.step - x.step) + x.slope;
      const double quadratic = x.step + ((x.slope / slope) / 2.0) * (p.step - x.step);
      step = std::fabs(cubic - x.step) <= std::fabs(quadratic - x.step) ? cubic
                                                                        : cubic + (quadratic - cubic) / 2.0;
      bracketed = true;
    } else if (sign < 0.0) {
      // A lower value, slopes of opposite sign: the farther of the cubic and the secant step.
      double gamma = gamma_of(theta, x.slope, p.slope, false);
      if (p.step > x.step) gamma = -gamma;
      const double r = ((gamma - p.slope) + theta) / (((gamma - p.slope) + gamma) + x.slope);
      const double cubic = p.step + r * (x.step - p.step);
      const double secant = p.step + (p.slope / (p.slope - x.slope)) * (x.step - p.step);
      step = std::fabs(cubic - p.step) > std::fabs(secant - p.step) ? cubic : secant;
      bracketed = true;
    } else if (std::fabs(p.slope) < std::fabs(x.slope)) {
      // A lower value, slopes of one sign, the smaller one here.
      double gamma = gamma_of(theta, x.slope, p.slope, true);
      if (p.step > x.step) gamma = -gamma;
      const double r = ((gamma - p.slope) + theta) / ((gamma + (x.slope - p.slope)) + gamma);
      double cubic = p.step > x.step ? most : least;
      if (r < 0.0 && gamma != 0.0) cubic = p.step + r * (x.step - p.step);
      const double secant = p.step + (p.slope / (p.slope - x.slope)) * (x.step - p.step);
      const bool cubic_is_closer = std::fabs(cubic - p.step) < std::fabs(secant - p.step);
      if (bracketed) {
        step = cubic_is_closer ? cubic : secant;
        const double limit = p.step + 0.66 * (y.step - p.step);
        step = p.step > x.step ? std::min(limit, step) : std::max(limit, step);
      } else {
        step = std::fabs(cubic - p.step) > std::fabs(secant - p.step) ? cubic : secant;
        step = std::min(std::max(step, least), most);
      }
    } else if (bracketed) {
      const double other = 3.0 * (p.value - y.value) / (y.step - p.step) + y.slope + p.slope;
      double gamma = gamma_of(other, y.slope, p.slope, false);
      if (p.step > y.step) gamma = -gamma;
      const double r = ((gamma - p.slope) + other) / (((gamma - p.slope) + gamma) + y.slope);
      step = p.step + r * (y.step - p.step);
    } else {
      step = p.step > x.step ? most : least;
    }
    if (p.value > x.value) {
      y = p;
    } else {
      if (sign < 0.0) y = x;
      x = p;
    }
    // An end of infinite value leaves nothing to interpolate.
    return std::isfinite(step) ? step : x.step + 0.5 * (y.step - x.step);
  }
};

LineSearchResult more_thuente(Search& search, double step) {
  const LineSearchOptions& options = search.options();
  const LinePoint& start = search.start();
  const double test_slope = options.decrease * start.slope;
  Interval interval{start, start};
  bool first_stage = true;
  double width = options.longest_step, wider = 2.0 * options.longest_step;
  double least = 0.0, most = step + 4.0 * step;
  while (!search.exhausted()) {
    const LinePoint p = search.at(step);
    const double enough = start.value + p.step * test_slope;
    if (first_stage && p.value <= enough && p.slope >= 0.0) first_stage = false;
    if (search.is_wolfe(p)) return search.accept(LineSearchEnd::kWolfe, p);
    if (interval.bracketed && (step <= least || step >= most || most - least <= kEpsilon * most)) break;
    if (step == options.longest_step && p.value <= enough && p.slope <= test_slope) break;

    if (first_stage && p.value <= interval.x.value && p.value > enough) {
      // Until a point decreases enough, psi(a) = phi(a) - phi(0) - c1 a phi'(0) predicts the steps.
      const auto tilted = [&](LinePoint point, double sign) {
        point.value += sign * point.step * test_slope;
        point.slope += sign * test_slope;
        return point;
      };
      Interval modified{tilted(interval.x, -1.0), tilted(interval.y, -1.0), interval.bracketed};
      step = modified.next(tilted(p, -1.0), least, most);
      interval = {tilted(modified.x, 1.0), tilted(modified.y, 1.0), modified.bracketed};
    } else {
      step = interval.next(p, least, most);
    }
    const double x = interval.x.step, y = interval.y.step;
    if (interval.bracketed) {
      if (std::fabs(y - x) >= 0.66 * wider) step = x + 0.5 * (y - x);
      wider = width;
      width = std::fabs(y - x);
      least = std::min(x, y);
      most = std::max(x, y);
    } else {
      least = step + 1.1 * (step - x);
      most = step + 4.0 * (step - x);
    }
    step = std::min(std::max(step, 0.0), options.longest_step);
    if (interval.bracketed && (step <= least || step >= most || most - least <= kEpsilon * most)) step = x;
    if (!(step > 0.0)) break;
  }
  return search.give_up();
}

}  // namespace

const char* name_of(LineSearchEnd end) {
  switch (end) {
    case LineSearchEnd::kWolfe:
      return "wolfe";
    case LineSearchEnd::kArmijoOnly:
      return "armijo_only";
    case LineSearchEnd::kFailed:
      break;
  }
  return "failed";
}

void check(const LineSearchOptions& options) {
  const auto refuse = [](const char* rule, const auto& value) {
    fail(ErrorKind::kUsage, fmt::format("line search: {}: {}", rule, value));
  };
  if (options.type != "strong_wolfe" && options.type != "more_thuente" && options.type != "armijo") {
    refuse("type must be strong_wolfe, more_thuente or armijo", options.type);
  }
  if (!(options.decrease > 0.0 && options.decrease < 1.0))
    refuse("decrease must be in (0, 1)", options.decrease);

  if (!(options.curvature > 0.0 && options.curvature < 1.0))
    refuse("curvature must be in (0, 1)", options.curvature);
  if (options.most_trials < 1) refuse("most_trials must be at least 1", options.most_trials);
  if (!(options.longest_step > 0.0)) refuse("longest_step must be positive", options.longest_step);
  if (!(options.flat >= 0.0 && options.flat < 1.0)) refuse("flat must be in [0, 1)", options.flat);
}

LineSearchResult search_line(const LineSearchOptions& options, const LineFunction& phi, double value,
                             double slope, double first_step) {
  check(options);
  if (!(std::isfinite(value) && slope < 0.0 && std::isfinite(slope) && first_step > 0.0)) {
    fail(ErrorKind::kInternal,
         fmt::format(
             "line search: it needs a finite value, a negative slope and a positive first step: {}, {}, {}",
             value, slope, first_step));
  }
  Search search(options, phi, value, slope);
  const double step = std::min(first_step, options.longest_step);
  if (options.type == "armijo") return backtrack(search, step);
  return options.type == "more_thuente" ? more_thuente(search, step) : strong_wolfe(search, step);
}

}  // namespace lockstep
