// Every method on the problems of Moré, Garbow and Hillstrom against SciPy's counts, and on hostile ones.
#include "lockstep/minimize/minimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/reduction.h"
#include "problems.h"

namespace lockstep {
namespace {

using Make = std::function<std::unique_ptr<Minimizer>()>;

std::map<std::string, Make> methods() {
  return {
      {"gradient_descent", [] { return make_line_descent(); }},
      {"momentum", [] { return make_momentum_descent(); }},
      {"bfgs", [] { return make_bfgs(); }},
      {"lbfgs", [] { return make_lbfgs(); }},
      {"lbfgs_more_thuente", [] { return make_lbfgs({.line_search = {.type = "more_thuente"}}); }},
      {"lbfgs_reject", [] { return make_lbfgs({.pair = "reject"}); }},
      {"newton", [] { return make_newton(); }},
      {"newton_cg", [] { return make_newton_cg(); }},
      {"newton_cg_damped", [] { return make_newton_cg({.damping = 1.0}); }},
      {"newton_cg_preconditioned", [] { return make_newton_cg({.preconditioner_products = 2}); }},
      {"trust_region", [] { return make_trust_region(); }},
      {"trust_region_dogleg", [] { return make_trust_region({.solver = "dogleg"}); }},
      // (From a radius of 1 Biggs EXP6 ends on its plateau at infinity.)
      {"trust_region_exact", [] { return make_trust_region({.solver = "exact", .initial_radius = 0.5}); }}};
}

// Those that need no residuals, and those that do.
std::map<std::string, Make> methods_of_squares() {
  std::map<std::string, Make> all = methods();
  all["levenberg_marquardt"] = [] { return make_levenberg_marquardt(); };
  all["levenberg_marquardt_cg"] = [] { return make_levenberg_marquardt({.solver = "cg"}); };
  return all;
}

struct Broken {};

// Does not answer the question with the number `broken`, counted from 1.
class BreakingProblem final : public Problem {
 public:
  BreakingProblem(Problem& inner, int64_t broken) : inner_(inner), broken_(broken) {}
  int64_t size() const override { return inner_.size(); }
  double value(const RealVector& x) override { return ask().value(x); }
  double value_and_gradient(const RealVector& x, RealVector& gradient) override {
    return ask().value_and_gradient(x, gradient);
  }
  void hessian_product(const RealVector& x, const RealVector& v, RealVector& out) override {
    ask().hessian_product(x, v, out);
  }
  int64_t residual_count() const override { return inner_.residual_count(); }
  void residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian) override {
    ask().residuals(x, r, jacobian);
  }
  int64_t asked() const { return asked_; }

 private:
  Problem& ask() {
    if (++asked_ == broken_) throw Broken();
    return inner_;
  }
  Problem& inner_;
  int64_t broken_, asked_ = 0;
};

bool solved(const TestProblem& test, const MinimizeResult& result) {
  for (const double minimum : test.minima) {
    if (minimum == 0.0 && result.at.value <= 1e-10) return true;
    if (minimum > 0.0 && std::fabs(result.at.value - minimum) <= 1e-6 * minimum) return true;
  }
  return false;
}

nlohmann::json scipy_counts() {
  std::ifstream file(LOCKSTEP_MINIMIZE_DATA "/scipy_counts.json");
  return nlohmann::json::parse(file);
}

TEST(MoreGarbowHillstrom, AllSolvedByEveryMethodThatSeesCurvature) {
  for (const char* name : {"bfgs", "lbfgs", "lbfgs_more_thuente", "newton", "newton_cg", "newton_cg_damped",
                           "trust_region", "trust_region_dogleg", "trust_region_exact"}) {
    for (const TestProblem& test : test_problems()) {
      JetProblem problem = test.problem();
      const MinimizeResult result = minimize(problem, *methods().at(name)(), test.start, {.gradient = 1e-10});
      EXPECT_TRUE(solved(test, result)) << name << ": " << test.name << ": " << name_of(result.outcome)
                                        << " at " << result.at.value << " after " << result.steps;
    }
  }
  for (const char* solver : {"qr", "cg"}) {
    for (const TestProblem& test : test_problems()) {
      JetProblem problem = test.problem();
      const auto method =
          make_levenberg_marquardt({.solver = solver, .residual = 1e-8, .most_products = 1000});
      const MinimizeResult result =
          minimize(problem, *method, test.start, {.gradient = 1e-10, .most_steps = 2000});
      EXPECT_TRUE(solved(test, result))
          << "levenberg_marquardt by " << solver << ": " << test.name << ": " << name_of(result.outcome)
          << " at " << result.at.value << " after " << result.steps;
    }
  }
}

// sum_i c_i x_i^2 / 2, c from 1 to 1000.
TEST(MomentumDescent, NeedsFewerStepsThanTheGradientInANarrowBowl) {
  const auto steps_of = [](const std::unique_ptr<Minimizer>& method) {
    CallbackProblem problem(10,
                            [](const RealVector& x, RealVector& g) {
                              g = x;
                              for (size_t i = 0; i < x.size(); ++i)
                                g[i] *= std::pow(1000.0, static_cast<double>(i) / 9.0);
                              return 0.5 * dot(x, g);
                            },
                            {});
    const MinimizeResult result = minimize(problem, *method, RealVector(10, 1.0), {.gradient = 1e-6});
    EXPECT_EQ(result.outcome, Outcome::kConverged);
    return result.steps;
  };
  const int64_t along_gradients = steps_of(make_line_descent());
  EXPECT_EQ(steps_of(make_momentum_descent({.momentum = 0.0})), along_gradients);
  EXPECT_LT(3 * steps_of(make_momentum_descent()), 2 * along_gradients);
  for (const double none : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(make_momentum_descent({.momentum = none}), Error);
  }
}

TEST(NewtonCg, DampingFollowsHowWellTheModelPredicts) {
  // x^4/4 - x^2/2: curved downwards at the start, and a bowl around 1.
  CallbackProblem problem(
      1,
      [](const RealVector& x, RealVector& g) {
        const double square = x[0] * x[0];
        g = {x[0] * (square - 1.0)};
        return square * (square - 2.0) / 4.0;
      },
      [](const RealVector& x, const RealVector& v, RealVector& out) {
        out = {(3.0 * x[0] * x[0] - 1.0) * v[0]};
      });
  const auto method = make_newton_cg({.damping = 0.01});
  int ups = 0, downs = 0;
  double before = 0.01;
  const MinimizeResult result = minimize(problem, *method, {0.1}, {}, [&](const Iterate&) {
    const double now = method->state(1).at("damping").at(0);
    EXPECT_NEAR(now / before, now > before ? 1.5 : now < before ? 2.0 / 3.0 : 1.0, 1e-15);
    (now > before ? ups : downs) += now != before ? 1 : 0;
    before = now;
  });
  EXPECT_EQ(result.outcome, Outcome::kConverged);
  EXPECT_GT(ups, 0);
  EXPECT_GT(downs, ups);
  EXPECT_FALSE(make_newton_cg()->state(1).contains("damping"));
  for (const double none :
       {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(make_newton_cg({.damping = none}), Error);
  }
}

// sum_i c_i (x_i - 1)^2 / 2 + coupling (sum_i (x_i - 1))^2 / 2, c from 1 to 1e6.
TEST(NewtonCg, APreconditionerTakesFewerProductsWhereAxesDifferInScale) {
  constexpr size_t kSize = 60;
  constexpr double kCoupling = 1e-3;
  const auto product = [](const RealVector&, const RealVector& v, RealVector& out) {
    double sum = 0.0;
    for (const double element : v) sum += element;
    out = v;
    for (size_t i = 0; i < kSize; ++i)
      out[i] = std::pow(1e6, static_cast<double>(i) / (kSize - 1)) * v[i] + kCoupling * sum;
  };
  const auto gradient = [&](const RealVector& x, RealVector& g) {
    RealVector from_one = x;
    for (double& element : from_one) element -= 1.0;
    product(x, from_one, g);
    return 0.5 * dot(from_one, g);
  };
  std::map<int, int64_t> products;
  for (const int probes : {0, 1, 3}) {
    CallbackProblem problem(kSize, gradient, product);
    const MinimizeResult result = minimize(problem, *make_newton_cg({.preconditioner_products = probes}),
                                           RealVector(kSize, -3.0), {.gradient = 1e-6});
    EXPECT_EQ(result.outcome, Outcome::kConverged) << probes;
    for (const double x : result.at.x) EXPECT_NEAR(x, 1.0, 1e-5) << probes;
    products[probes] = result.evaluations.products;
  }
  EXPECT_LT(2 * products[1], products[0]);
  EXPECT_LT(2 * products[3], products[0]);

  // The draws go on where a checkpoint has them.
  const auto method = make_newton_cg({.preconditioner_products = 3});
  CallbackProblem problem(kSize, gradient, product);
  const int64_t steps = minimize(problem, *method, RealVector(kSize, -3.0), {.gradient = 1e-6}).steps;
  EXPECT_EQ(method->state(kSize).at("probes"), RealVector{3.0 * static_cast<double>(steps)});
  EXPECT_FALSE(make_newton_cg()->state(1).contains("probes"));
  EXPECT_THROW(make_newton_cg({.preconditioner_products = -1}), Error);
}

TEST(MoreGarbowHillstrom, NeedsNoMoreEvaluationsThanSciPy) {
  const nlohmann::json scipy = scipy_counts();
  int64_t ours = 0, theirs = 0;
  for (const TestProblem& test : test_problems()) {
    if (test.name == "powell_badly_scaled") continue;  // SciPy gives up far from its minimum
    JetProblem problem = test.problem();
    const Evaluations made = minimize(problem, *make_lbfgs(), test.start).evaluations;
    ours += made.values + made.gradients;
    theirs += scipy.at(test.name).at("lbfgs_evaluations").get<int64_t>();
  }
  EXPECT_LE(ours, theirs);
  ours = theirs = 0;
  for (const TestProblem& test : test_problems()) {
    JetProblem problem = test.problem();
    ours += minimize(problem, *methods().at("trust_region")(), test.start).steps;
    theirs += scipy.at(test.name).at("trust_ncg_steps").get<int64_t>();
  }
  EXPECT_LT(ours, theirs);
}

TEST(Minimizer, EveryMethodFindsTheMinimumOfAnIllConditionedBowl) {
  for (const auto& [name, make] : methods()) {
    for (const int64_t n : {1, 12}) {
      CallbackProblem problem(
          n,
          [n](const RealVector& x, RealVector& g) {
            double value = 0.0;
            g.resize(x.size());
            for (int64_t i = 0; i < n; ++i) {
              const auto k = static_cast<size_t>(i);
              g[k] = static_cast<double>(i + 1) * (x[k] - 1.0);
              value += 0.5 * g[k] * (x[k] - 1.0);
            }
            return value;
          },
          [](const RealVector&, const RealVector& v, RealVector& out) {
            out = v;
            for (size_t i = 0; i < v.size(); ++i) out[i] *= static_cast<double>(i + 1);
          });
      const MinimizeResult result = minimize(problem, *make(), RealVector(static_cast<size_t>(n), -3.0));
      EXPECT_EQ(result.outcome, Outcome::kConverged) << name;
      for (const double x : result.at.x) EXPECT_NEAR(x, 1.0, 1e-7) << name;
      // Newton's model is the function: one step, as far as its trust allows.
      if (name == "newton") {
        EXPECT_EQ(result.steps, 1);
      }
    }
  }
}

TEST(Minimizer, GoesAroundSaddlesAndThroughIndefiniteCurvature) {
  // x^2 - y^2 + y^4/4 from beside its saddle at 0: minima of -1 at (0, +-sqrt 2).
  const auto gradient = [](const RealVector& x, RealVector& g) {
    g = {2.0 * x[0], -2.0 * x[1] + x[1] * x[1] * x[1]};
    return x[0] * x[0] - x[1] * x[1] + 0.25 * x[1] * x[1] * x[1] * x[1];
  };
  const auto hessian = [](const RealVector& x, const RealVector& v, RealVector& out) {
    out = {2.0 * v[0], (3.0 * x[1] * x[1] - 2.0) * v[1]};
  };
  for (const auto& [name, make] : methods()) {
    CallbackProblem problem(2, gradient, hessian);
    const MinimizeResult result = minimize(problem, *make(), {0.5, 1e-6});
    EXPECT_NEAR(result.at.value, -1.0, 1e-12) << name;
    EXPECT_EQ(result.outcome, Outcome::kConverged) << name;
  }
}

// A line through points far from the origin's values, in units of `scale`: y = (3 + 2 t - t^2 / 2) scale.
// Values have the digits of fp32 where `coarse`.
class ScaledFit final : public Problem {
 public:
  ScaledFit(double scale, bool coarse)
      : fit_(3, 8,
             [scale](const RealVector& x, RealVector& r, DenseMatrix* jacobian) {
               r.resize(8);
               for (int64_t i = 0; i < 8; ++i) {
                 const double t = 0.5 * static_cast<double>(i) - 1.0;
                 const double noise = (i % 2 == 0 ? 0.01 : -0.01) * scale;
                 r[static_cast<size_t>(i)] =
                     x[0] + x[1] * t + x[2] * t * t - (3.0 + 2.0 * t - 0.5 * t * t) * scale - noise;
                 if (jacobian == nullptr) continue;
                 std::tie((*jacobian)(i, 0), (*jacobian)(i, 1), (*jacobian)(i, 2)) =
                     std::tuple(1.0, t, t * t);
               }
             }),
        coarse_(coarse) {}
  int64_t size() const override { return 3; }
  double value(const RealVector& x) override { return rounded(fit_.value(x)); }
  double value_and_gradient(const RealVector& x, RealVector& gradient) override {
    return rounded(fit_.value_and_gradient(x, gradient));
  }
  // Of a line fit that is the same matrix.
  void hessian_product(const RealVector& x, const RealVector& v, RealVector& out) override {
    fit_.gauss_newton_product(x, v, out);
  }
  int64_t residual_count() const override { return 8; }
  void residuals(const RealVector& x, RealVector& r, DenseMatrix* jacobian) override {
    fit_.residuals(x, r, jacobian);
  }
  double resolution() const override {
    return coarse_ ? std::numeric_limits<float>::epsilon() : Problem::resolution();
  }

 private:
  double rounded(double value) const { return coarse_ ? static_cast<float>(value) : value; }
  LeastSquaresProblem fit_;
  bool coarse_;
};

// Quarters of a step's length come back to the first radius exactly; the rule for it holds once.
TEST(Minimizer, ARadiusThatComesBackIsNoFirstOne) {
  CallbackProblem problem(
      1,
      [](const RealVector& x, RealVector& gradient) {
        gradient = {-1.0 + x[0] / 64.0 + 4e3 * x[0] * x[0] * x[0]};
        return 5e15 - x[0] + x[0] * x[0] / 128.0 + 1e3 * x[0] * x[0] * x[0] * x[0];
      },
      [](const RealVector& x, const RealVector& v, RealVector& out) {
        out = {(1.0 / 64.0 + 12e3 * x[0] * x[0]) * v[0]};
      });
  const MinimizeResult result =
      minimize(problem, *make_trust_region({}), {0.0}, {.gradient = 1e-9, .most_steps = 500});
  EXPECT_LT(result.steps, 100);
}

TEST(Minimizer, FindsTheMinimumWhateverTheScaleOfTheProblem) {
  std::map<std::string, Make> all = methods_of_squares();
  all["lbfgs_armijo"] = [] { return make_lbfgs({.line_search = {.type = "armijo"}}); };
  all["gradient_more_thuente"] = [] { return make_line_descent({.line_search = {.type = "more_thuente"}}); };
  for (const auto& [name, make] : all) {
    for (const bool coarse : {false, true}) {
      for (const double scale : {1e-15, 1e-8, 1.0, 1e8, 1e10, 1e18}) {
        ScaledFit problem(scale, coarse);
        const MinimizeResult result =
            minimize(problem, *make(), {0.0, 0.0, 0.0}, {.gradient = 1e-9 * scale, .most_steps = 500});
        EXPECT_LT(result.at.value, 5e-4 * scale * scale) << name << ' ' << coarse << " at scale " << scale;
      }
    }
  }
}

TEST(Minimizer, StaysWhereThereIsNothingToGain) {
  const auto flat = [](const RealVector& x, RealVector& g) {
    g.assign(x.size(), 0.0);
    return 7.0;
  };
  const auto nothing = [](const RealVector&, const RealVector& v, RealVector& out) {
    out.assign(v.size(), 0.0);
  };
  for (const auto& [name, make] : methods()) {
    CallbackProblem problem(3, flat, nothing);
    const MinimizeResult result = minimize(problem, *make(), {1.0, 2.0, 3.0}, {.gradient = 0.0});
    EXPECT_EQ(result.outcome, Outcome::kConverged) << name;
    EXPECT_EQ(result.at.x, (RealVector{1.0, 2.0, 3.0}));
  }
}

TEST(Minimizer, AFailedStepLeavesEveryBitOfTheIterate) {
  // A gradient that lies: nothing along any direction is better.
  const auto lying = [](const RealVector& x, RealVector& g) {
    g = {1.0, -2.0};
    return x[0] == 0.1 && x[1] == -0.3 ? 1.0 : std::numeric_limits<double>::quiet_NaN();
  };
  const auto hessian = [](const RealVector&, const RealVector& v, RealVector& out) { out = v; };
  for (const auto& [name, make] : methods()) {
    CallbackProblem problem(2, lying, hessian);
    const MinimizeResult result = minimize(problem, *make(), {0.1, -0.3}, {.most_steps = 2000});
    EXPECT_EQ(result.outcome, Outcome::kStuck) << name;
    EXPECT_EQ(result.at.x, (RealVector{0.1, -0.3})) << name;
    EXPECT_EQ(result.at.value, 1.0);
    EXPECT_EQ(result.at.gradient, (RealVector{1.0, -2.0}));
  }
}

TEST(Minimizer, SurvivesWhatIsNotFinite) {
  // log(x) - x beyond its domain: -log x + x, minimum 1 at 1; nan for x <= 0, where first trials go.
  const auto barrier = [](const RealVector& x, RealVector& g) {
    g = {x[0] > 0.0 ? 1.0 - 1.0 / x[0] : std::nan("")};
    return x[0] > 0.0 ? x[0] - std::log(x[0]) : std::nan("");
  };
  const auto hessian = [](const RealVector& x, const RealVector& v, RealVector& out) {
    out = {v[0] / (x[0] * x[0])};
  };
  for (const auto& [name, make] : methods()) {
    CallbackProblem problem(1, barrier, hessian);
    for (const double start : {40.0, 1e-3}) {
      const MinimizeResult result = minimize(problem, *make(), {start});
      EXPECT_NEAR(result.at.x[0], 1.0, 1e-7) << name << " from " << start;
    }
    EXPECT_EQ(minimize(problem, *make(), {-1.0}).outcome, Outcome::kNotFinite) << name;
    // Values whose squares overflow: nothing is promised but an end at a finite point.
    CallbackProblem huge(
        2,
        [](const RealVector& x, RealVector& g) {
          g = {2e300 * x[0], 2e300 * x[1]};
          return 1e300 * (x[0] * x[0] + x[1] * x[1]);
        },
        [](const RealVector&, const RealVector& v, RealVector& out) {
          out = {2e300 * v[0], 2e300 * v[1]};
        });
    const MinimizeResult result = minimize(huge, *make(), {3.0, -2.0}, {.most_steps = 500});
    EXPECT_TRUE(std::isfinite(result.at.value)) << name;
    EXPECT_LE(result.at.value, 1.3000001e301) << name;
  }
}

TEST(Minimizer, GoesOnFromItsStateWithTheSameBits) {
  const TestProblem test = test_problems()[7];
  for (const auto& [name, make] : methods_of_squares()) {
    JetProblem problem = test.problem();
    const RealVector whole = minimize(problem, *make(), test.start, {.most_steps = 12}).at.x;
    const auto first = make(), second = make();
    const RealVector half = minimize(problem, *first, test.start, {.most_steps = 5}).at.x;
    const auto n = static_cast<int64_t>(test.start.size());
    second->set_state(first->state(n));
    EXPECT_EQ(minimize(problem, *second, half, {.most_steps = 7}).at.x, whole) << name;
    if (first->state(n).empty()) continue;
    EXPECT_THROW(make()->set_state({}), Error) << name;
    // A state has its sizes from the start, and a new one is as good as none.
    const auto none = make();
    for (const auto& [vector, values] : none->state(n)) {
      EXPECT_EQ(values.size(), first->state(n).at(vector).size()) << name << ' ' << vector;
    }
    none->set_state(make()->state(n));
    EXPECT_EQ(minimize(problem, *none, test.start, {.most_steps = 12}).at.x, whole) << name;
  }
}

TEST(Minimizer, AStepThatTheProblemBreaksOffCanBeTakenAgain) {
  const TestProblem test = test_problems()[7];
  const auto n = static_cast<int64_t>(test.start.size());
  for (const auto& [name, make] : methods_of_squares()) {
    // Every question of the steps 1 to 8 is the one that is not answered, once.
    JetProblem inner = test.problem();
    const RealVector whole = minimize(inner, *make(), test.start, {.most_steps = 8}).at.x;
    for (int64_t broken = 1;; ++broken) {
      BreakingProblem problem(inner, broken);
      const auto method = make();
      CountedProblem counted(problem);
      Iterate at{test.start, 0.0, {}};
      at.value = inner.value_and_gradient(at.x, at.gradient);
      for (int step = 0; step < 8; ++step) {
        const Iterate before = at;
        const auto state = method->state(n);
        try {
          method->step(counted, at);
        } catch (const Broken&) {
          // (Levenberg-Marquardt may have begun to scale by the iterate it was given.)
          EXPECT_TRUE(name.starts_with("levenberg_marquardt") || method->state(n) == state) << name;
          at = before;
          --step;
        }
      }
      EXPECT_EQ(at.x, whole) << name << ", question " << broken;
      if (problem.asked() < broken) break;
    }
  }
}

TEST(Minimizer, StopsByItsRules) {
  JetProblem problem = test_problems()[0].problem();
  const RealVector start = test_problems()[0].start;
  EXPECT_EQ(minimize(problem, *make_lbfgs(), start, {.most_steps = 3}).steps, 3);
  EXPECT_EQ(minimize(problem, *make_lbfgs(), start, {.most_steps = 3}).outcome, Outcome::kOutOfSteps);
  const MinimizeResult few = minimize(problem, *make_lbfgs(), start, {.most_evaluations = 10});
  EXPECT_EQ(few.outcome, Outcome::kOutOfEvaluations);
  EXPECT_LE(few.evaluations.gradients, 10 + 20);
  EXPECT_THROW(minimize(problem, *make_lbfgs(), {1.0}), Error);
}

TEST(Minimizer, SaysWhatAProblemLacks) {
  CallbackProblem problem(1, [](const RealVector& x, RealVector& g) {
    g = {x[0]};
    return 0.5 * x[0] * x[0];
  });
  for (const char* name : {"newton", "newton_cg", "trust_region", "trust_region_exact"}) {
    EXPECT_THROW(minimize(problem, *methods().at(name)(), {1.0}), Error) << name;
  }
  EXPECT_THROW(minimize(problem, *make_levenberg_marquardt(), {1.0}), Error);
  EXPECT_THROW(minimize(problem, *make_newton_cg({.matrix = "gauss_newton"}), {1.0}), Error);
  EXPECT_THROW(make_trust_region({.solver = "cg"}), Error);
  EXPECT_THROW(make_newton_cg({.matrix = "fisher"}), Error);
  EXPECT_THROW(make_lbfgs({.history = 0}), Error);
  EXPECT_THROW(make_lbfgs({.pair = "keep"}), Error);
  EXPECT_THROW(make_levenberg_marquardt({.initial_radius = 0.0}), Error);
  EXPECT_THROW(make_levenberg_marquardt({.acceleration = -1.0}), Error);
  EXPECT_THROW(make_levenberg_marquardt({.solver = "cholesky"}), Error);
  EXPECT_THROW(make_levenberg_marquardt({.solver = "cg", .residual = 1.0}), Error);
  EXPECT_THROW(make_levenberg_marquardt({.solver = "cg", .most_products = 0}), Error);
}

// One step of both, which solve the same system.
TEST(Minimizer, LevenbergMarquardtTakesTheSameStepByProductsAsByQr) {
  for (const TestProblem& test : test_problems()) {
    // The system of the first has no digits left for conjugate gradients; where the second starts, nothing
    // depends on x, and what QR leaves of that is rounding.
    if (test.name == "powell_badly_scaled" || test.name == "beale") continue;
    SCOPED_TRACE(test.name);
    JetProblem problem = test.problem();
    RealVector steps[2];
    for (const int way : {0, 1}) {
      const auto method = make_levenberg_marquardt({.solver = way == 0 ? "qr" : "cg",
                                                    .residual = 1e-14,
                                                    .most_products = 1000,
                                                    .initial_radius = 10.0,
                                                    .accept = 0.0,
                                                    .acceleration = 0.0});
      CountedProblem counted(problem);
      Iterate at{test.start, 0.0, {}};
      at.value = problem.value_and_gradient(at.x, at.gradient);
      while (method->step(counted, at) == Move::kRejected) {
      }
      steps[way] = at.x;
      EXPECT_EQ(counted.evaluations().products > 0, way == 1);
    }
    for (size_t i = 0; i < steps[0].size(); ++i)
      EXPECT_NEAR(steps[1][i], steps[0][i], 1e-7 * (1.0 + std::fabs(steps[0][i])));
  }
}

TEST(CallbackProblem, GradientsHaveASizeBeforeAndAfterTheCall) {
  RealVector g;
  CallbackProblem fills(2, [](const RealVector& x, RealVector& gradient) {
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] = x[i];
    return 1.0;
  });
  EXPECT_EQ(fills.value_and_gradient({3.0, 4.0}, g), 1.0);
  EXPECT_EQ(g, (RealVector{3.0, 4.0}));
  CallbackProblem shrinks(2, [](const RealVector&, RealVector& gradient) {
    gradient = {1.0};
    return 1.0;
  });
  EXPECT_THROW(shrinks.value_and_gradient({3.0, 4.0}, g), Error);
  EXPECT_THROW(shrinks.value({3.0, 4.0}), Error);
}

TEST(FunctionProblem, IsMinimizedThroughOpsAndAutodiff) {
  // sum_i (x_i^2 - i)^2 / 4 + x_i, i = 1..4
  const std::vector<double> targets = {1.0, 2.0, 3.0, 4.0};
  const Tensor t = Tensor::from({4}, targets, test_backend());
  FunctionProblem problem(
      4, [&](const Tensor& x) { return sum(add(scale(square(subtract(square(x), t)), 0.25), x)); },
      test_backend());
  for (const auto& [name, make] : methods()) {
    const MinimizeResult result = minimize(problem, *make(), {-2.0, -2.0, -2.0, -2.0}, {.most_steps = 2000});
    for (size_t i = 0; i < 4; ++i) {
      const double x = result.at.x[i];
      EXPECT_NEAR(x * (x * x - targets[i]) + 1.0, 0.0, 1e-7) << name;
    }
  }
  RealVector product;
  problem.hessian_product({1.0, 1.0, 1.0, 1.0}, {1.0, 0.0, 2.0, 0.0}, product);
  EXPECT_EQ(product, (RealVector{2.0, 0.0, 0.0, 0.0}));  // (3 x^2 - t) v
  problem.hessian_product({1.0, 1.0, 1.0, 1.0}, {0.0, 4.0, 0.0, 1.0}, product);
  EXPECT_EQ(product, (RealVector{0.0, 4.0, 0.0, -1.0}));
  problem.hessian_product({2.0, 1.0, 1.0, 1.0}, {1.0, 0.0, 2.0, 0.0}, product);
  EXPECT_EQ(product, (RealVector{11.0, 0.0, 0.0, 0.0}));
}

}  // namespace
}  // namespace lockstep
