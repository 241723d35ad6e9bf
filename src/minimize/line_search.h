// How far to go along a direction of descent: phi(a) = f(x + a p), phi'(0) < 0.
#pragma once

#include <functional>
#include <string>

namespace lockstep {

struct LineSearchOptions {
  // "strong_wolfe": bracket, then zoom by guarded cubic interpolation (Nocedal and Wright 2006,
  // algorithms 3.5 and 3.6). "more_thuente": Moré and Thuente 1994. "armijo": backtracking by guarded
  // interpolation, which looks at values alone.
  std::string type = "strong_wolfe";
  double decrease = 1e-4;  // c1: phi(a) <= phi(0) + c1 a phi'(0)
  double curvature = 0.9;  // c2: |phi'(a)| <= c2 |phi'(0)|
  int most_trials = 20;    // then the best point that decreases enough is taken
  double longest_step = 1e10;
  // Where |a phi'(0)| <= flat |phi(0)|, differences of phi are made of rounding: there phi(a) <= phi(0) +
  // flat |phi(0)| and phi'(a) <= (2 c1 - 1) phi'(0) decrease enough (Hager and Zhang 2005). 0: never.
  double flat = 1e-6;
};
// Error (kUsage) when an option is out of its range or of no known type.
void check(const LineSearchOptions& options);

enum class LineSearchEnd {
  kWolfe,       // decreases enough, and the slope has become small enough
  kArmijoOnly,  // decreases enough: all that "armijo" asks for; of the others when the trials were used up
  kFailed,      // no trial decreased enough: the point is to stay where it was
};
const char* name_of(LineSearchEnd end);  // "wolfe", "armijo_only", "failed"

// One point of phi. What is not finite counts as a value of +infinity.
struct LinePoint {
  double step = 0.0, value = 0.0, slope = 0.0;
};
// phi at a step; the slope only has to be there where `with_slope`.
using LineFunction = std::function<LinePoint(double step, bool with_slope)>;

struct LineSearchResult {
  LineSearchEnd end = LineSearchEnd::kFailed;
  LinePoint point = {};  // accepted; at step 0 when failed. Of "armijo" it has no slope.
  int trials = 0;        // evaluations of phi
};

// value, slope: phi(0) and phi'(0) < 0; first_step > 0. Never evaluates phi at 0.
LineSearchResult search_line(const LineSearchOptions& options, const LineFunction& phi, double value,
                             double slope, double first_step);

}  // namespace lockstep
