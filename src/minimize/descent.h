// A line search along a direction, as the methods that search lines use it.
#pragma once

#include <string>

#include "lockstep/minimize/minimizer.h"

namespace lockstep {

// Searches from `at` along p, whose slope g'p is negative, and moves there; after kFailed `at` is what it
// was. A point whose gradient is not finite has failed too; `with_gradient` false: it may be left out.
LineSearchResult descend(CountedProblem& problem, const LineSearchOptions& options, const RealVector& p,
                         double slope, double first_step, Iterate& at, bool with_gradient = true);

// Moves to x + step p where that is another point, whose value and gradient are finite; false: `at` is what
// it was. `with_gradient` false: nothing is asked, and the value becomes not a number.
bool advance(CountedProblem& problem, const RealVector& p, double step, Iterate& at,
             bool with_gradient = true);

// The first trial along p where nothing is known about its length: one of |p|_1 <= 1.
double cautious_step(const RealVector& p);

// `step`, of a length that knows nothing of the problem's scale, along a line of that slope: what it promises
// can be too little for the digits of the value to tell, as with sums of squares of targets of 1e10. Then as
// long as the value itself lets expect, a hundredth of it, and no longer than `longest`.
double telling_step(const CountedProblem& problem, double value, double slope, double step, double longest);

// Of a problem of n parameters: what line searches and directions hold beside a method's own.
inline constexpr int64_t kVectorsOfSearch = 8;

// The vector `name` of a minimizer's state. Error (kUsage) where it is missing.
const RealVector& of_state(const std::map<std::string, RealVector>& state, const std::string& name);

// The dense second derivative at x out of n products, symmetrized. gauss_newton: that matrix instead.
DenseMatrix dense_matrix(CountedProblem& problem, const RealVector& x, bool gauss_newton);
// Error (kUsage) where n > kMostDenseParameters.
void require_dense(const char* who, int64_t n);
// Whether `name` is "gauss_newton"; Error (kUsage) unless it is that or "hessian".
bool is_gauss_newton(const char* who, const std::string& name);

}  // namespace lockstep
