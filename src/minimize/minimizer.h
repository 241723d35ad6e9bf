// Minimizers: methods that look at a problem where they like before they move, one step at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "lockstep/minimize/line_search.h"
#include "lockstep/minimize/problem.h"
#include "lockstep/minimize/vectors.h"

namespace lockstep {

// Of one batch of an objective whose problems are batches, one after the other: gradients at x of the mean
// losses of those samples that the batch shares with the one before and with the one after (n); empty: none
// of them counts. l2/2 |x|^2 is part of the objective and not of these.
struct SharedGradients {
  int64_t batch = 0;  // its number
  RealVector before, after;
  double l2 = 0.0;
};

// Where a minimizer is: x (n), f(x) and its gradient (n).
struct Iterate {
  RealVector x;
  double value = 0.0;
  RealVector gradient;
  std::optional<SharedGradients> shared = {};  // where there are such batches
};

// How often a problem was asked. A value that came with its gradient counts once, as a gradient.
struct Evaluations {
  int64_t values = 0, gradients = 0, products = 0;
};

// A problem, counted; what is not finite, -infinity too, is a value of +infinity.
class CountedProblem {
 public:
  explicit CountedProblem(Problem& problem) : problem_(problem) {}
  int64_t size() const { return problem_.size(); }
  double value(const RealVector& x);
  double value_and_gradient(const RealVector& x, RealVector& gradient);
  void hessian_product(const RealVector& x, const RealVector& v, RealVector& out);
  void gauss_newton_product(const RealVector& x, const RealVector& v, RealVector& out);
  // Counts as a gradient.
  void gauss_newton_diagonal(const RealVector& x, RealVector& out);
  // Counts as a gradient when the Jacobian is wanted. Returns |r|^2 / 2.
  double residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian);
  int64_t residual_count() const { return problem_.residual_count(); }
  void place(RealVector& x) const { problem_.place(x); }
  double resolution() const { return problem_.resolution(); }
  const Evaluations& evaluations() const { return evaluations_; }

  // How the newest line search ended; none where there was none.
  void searched(LineSearchEnd end) { search_ = end; }
  const std::optional<LineSearchEnd>& search() const { return search_; }

 private:
  Problem& problem_;
  Evaluations evaluations_;
  std::optional<LineSearchEnd> search_;
};

enum class Move {
  kMoved,     // the iterate is another one, of a finite value unless overlap() is above 0
  kRejected,  // the same iterate, to the bit; another step may get further
  kStuck,     // the same iterate, to the bit; nothing that the method can see improves it
};

class Minimizer {
 public:
  virtual ~Minimizer() = default;
  virtual std::string type() const = 0;
  // One step from `at`, whose value and gradient are those at its x. It decides by these numbers and the
  // problem's answers alone. Error (kUsage) where the problem lacks what the method needs. When the problem
  // throws, the state is what it was: the step can be taken again from the iterate it began with.
  virtual Move step(CountedProblem& problem, Iterate& at) = 0;
  // What steps leave behind for later ones, by name: vectors of finite numbers whose sizes follow from n, the
  // number of parameters, and the options alone. Set at another object of the same options, it goes on with
  // the same bits. Error (kUsage) where a vector is missing.
  virtual std::map<std::string, RealVector> state(int64_t n) const = 0;
  virtual void set_state(const std::map<std::string, RealVector>& state) = 0;
  // The next step's problem is another one: what is only kept to save evaluations is forgotten.
  virtual void change_problem() {}
  // Micro-batches that a batch has to share with the next one. Where that is above 0 the next step's problem
  // is another one: a step leaves an iterate without gradient, and may leave it without a value (not a
  // number). Error (kUsage) of step() where the iterate has no shared gradients.
  virtual int64_t overlap() const { return 0; }
  // Whether it asks for residuals.
  virtual bool least_squares() const { return false; }
  // Whether it asks for Gauss-Newton products of a problem that is no sum of squares.
  virtual bool gauss_newton() const { return false; }
  // Error (kUsage) where it does not take problems of n parameters: those that keep dense matrices.
  virtual void require_size(int64_t n) const { (void)n; }
  // How many numbers it holds at most, during a step, beside the iterate; residuals: of least squares.
  virtual int64_t held(int64_t n, int64_t residuals) const = 0;
};

// ---- the methods; Error (kUsage) when an option is out of its range

// x <- x - a g, a by line search. The first trial expects the decrease of the step before (Nocedal and Wright
// 2006, 3.60).
struct LineDescentOptions {
  LineSearchOptions line_search = {};
};
std::unique_ptr<Minimizer> make_line_descent(const LineDescentOptions& options = {});

// x <- x - a v, v <- momentum v + g (Polyak 1964), a by line search, whose first trial is chosen in the same
// way. Where v leads nowhere or is no direction of descent, v begins anew with g. Scaling v as a whole, as
// the averaged form does, changes nothing of it.
struct MomentumDescentOptions {
  double momentum = 0.9;
  LineSearchOptions line_search = {};
};
std::unique_ptr<Minimizer> make_momentum_descent(const MomentumDescentOptions& options = {});

// Dense quasi-Newton method: the inverse of the Hessian from differences of gradients (Broyden, Fletcher,
// Goldfarb, Shanno 1970; Nocedal and Wright 2006, 6.17), n^2 numbers.
struct BfgsOptions {
  LineSearchOptions line_search = {};
};
std::unique_ptr<Minimizer> make_bfgs(const BfgsOptions& options = {});

// The same from the last `history` differences alone (Nocedal 1980; Liu and Nocedal 1989): 2 history n
// numbers. A pair (s, y) whose curvature s'y falls below least_curvature of s'Bs, B the matrix before, is
// damped towards it (Powell 1978) or rejected.
//
// overlap: of stochastic batches, S_k = O_{k-1} + N_k + O_k, that share as many micro-batches O_k with the
// next one (multi-batch L-BFGS: Berahas, Nocedal and Takáč 2016, arXiv 1605.06049). y = grad_{O_k}(x_{k+1}) -
// grad_{O_k}(x_k), both by-products of the batches' own gradients, of which there is one a step; searches
// along lines look at values alone ("armijo"). 0: y of the batch's own gradients at both ends of the step.
struct LbfgsOptions {
  int history = 10;
  int overlap = 0;
  double rate = 0.0;  // of every step along the direction; of -g, at most 1/|g|_1 of it; 0: by line search
  std::string pair = "damp";  // or "reject"
  double least_curvature = 1e-2;
  LineSearchOptions line_search = {};
};
std::unique_ptr<Minimizer> make_lbfgs(const LbfgsOptions& options = {});

// Newton's method with line search: the dense Hessian out of n products. Where it is not positive definite,
// its eigenvalues are replaced by their absolute values, at least `floor` of the largest.
struct NewtonOptions {
  double floor = 1e-8;
  LineSearchOptions line_search = {};
};
std::unique_ptr<Minimizer> make_newton(const NewtonOptions& options = {});
inline constexpr int64_t kMostDenseParameters = 4096;  // of newton, bfgs and the dense trust regions

// Truncated Newton method: conjugate gradients on B p = -g until the residual is below a share of |g| that
// shrinks as the gradient does (Eisenstat and Walker 1996, choice 2), or B shows negative curvature (Nocedal
// and Wright 2006, algorithm 7.1); then a line search.
//
// damping: B is the matrix plus lambda I (Martens 2010, section 4.1), lambda this at first. It becomes 3/2 of
// what it was behind a step that lowers f by less than a quarter of what g's + s'B s / 2 promises, or that
// goes against negative curvature or along the gradient, whose length no model knows, and 2/3 behind one that
// lowers it by more than three quarters.
struct NewtonCgOptions {
  std::string matrix = "hessian";  // or "gauss_newton"
  double damping = 0.0;            // 0: none, ever
  // Products with random signs z a step: the mean of z o Bz estimates the diagonal of B (Bekas, Kokiopoulou
  // and Saad 2007), by whose magnitude, with the damping, to the power of 3/4 (Martens 2010, 4.7) conjugate
  // gradients are preconditioned. 0: they are not.
  int preconditioner_products = 0;
  int most_products = 100;  // a step, beside these
  double first_forcing = 0.5, most_forcing = 0.9;
  LineSearchOptions line_search = {};
};
std::unique_ptr<Minimizer> make_newton_cg(const NewtonCgOptions& options = {});

// Natural gradient (Amari 1998): steps along -(F + damping I)^-1 g, F the Fisher information of
// what a model predicts, which for losses that are a log likelihood of the model's outputs by an exponential
// family's natural parameters (cross-entropy, logistic, squared error) is the Gauss-Newton matrix (Martens
// 2020). By conjugate gradients from 0, until the residual is `residual` of |g|.
struct NaturalGradientOptions {
  double damping = 1e-3;
  int most_products = 100;  // a step
  double residual = 1e-4;
  double rate = 0.0;  // of every step along the natural gradient; 0: by line search, from 1 on
  LineSearchOptions line_search = {};
};
std::unique_ptr<Minimizer> make_natural_gradient(const NaturalGradientOptions& options = {});

// Minimizes the quadratic model within |p| <= radius, and lets the radius follow how well the model predicts.
// solver: "steihaug", conjugate gradients up to the boundary (Steihaug 1983; Toint 1981); "dogleg" (Powell
// 1970), where the Hessian is not positive definite "steihaug"; "exact", from the eigenvalues of the dense
// Hessian with the hard case (Moré and Sorensen 1983). A first step of initial_radius whose promise is too
// little for the digits of f to tell is not taken: f and |g| say how long it is instead.
struct TrustRegionOptions {
  std::string solver = "steihaug";
  std::string matrix = "hessian";  // or "gauss_newton"
  double initial_radius = 1.0, largest_radius = 1e100;
  double accept = 0.15;     // the least ratio of actual and predicted decrease
  int most_products = 200;  // a step, of "steihaug"
};
std::unique_ptr<Minimizer> make_trust_region(const TrustRegionOptions& options = {});

// Of least squares: (J'J + D / radius) p = -J'r. "qr": by QR of J, never by J'J. "cg": by conjugate gradients
// on products with J'J, preconditioned by D (1 + 1 / radius), from 0 until a share of the residual is left
// (inexact steps: Wright and Holt 1985). D is the diagonal of J'J (Marquardt 1963), at least 0.98 of what it
// was a step before (Moré 1978 keeps its maximum), between the two limits; the radius follows Nielsen 1999.
// Steps by QR follow the curve of the model to second order (geodesic acceleration, Transtrum and Sethna
// 2012), at one more evaluation of r each; conjugate gradients have no J to do so.
struct LevenbergMarquardtOptions {
  std::string solver = "auto";  // "qr", "cg"; "auto": qr up to kMostDenseParameters
  double residual = 0.1;        // of "cg": share of |J'r| that may be left, in the preconditioner's norm
  int most_products = 100;      // of "cg", a step
  double initial_radius = 1e4, largest_radius = 1e16;
  double least_diagonal = 1e-30, largest_diagonal = 1e32;
  double accept = 1e-3;
  // Steps that bend by more than this share of their length are rejected. 0: none bends.
  double acceleration = 0.3;
};
std::unique_ptr<Minimizer> make_levenberg_marquardt(const LevenbergMarquardtOptions& options = {});

// ---- runs

enum class Outcome {
  kConverged,         // the gradient is small
  kStuck,             // no step that the method can see improves the value any more
  kOutOfSteps,        // stopped by StopRules
  kOutOfEvaluations,  // stopped by StopRules
  kNotFinite,         // value or gradient at the start is not finite
};
// "converged", "stuck", "out_of_steps", "out_of_evaluations", "not_finite"
const char* name_of(Outcome outcome);

struct StopRules {
  double gradient = 1e-8;  // largest |element| of the gradient; 0: until it vanishes
  int64_t most_steps = 10'000;
  int64_t most_evaluations = 1'000'000;  // of values and gradients together
};

struct MinimizeResult {
  Outcome outcome = Outcome::kStuck;
  Iterate at = {};
  int64_t steps = 0;  // rejected ones too
  Evaluations evaluations = {};
};

// From x; calls `each` with the start and after every step where it is given.
MinimizeResult minimize(Problem& problem, Minimizer& minimizer, RealVector x, const StopRules& rules = {},
                        const std::function<void(const Iterate& at)>& each = {});

}  // namespace lockstep
