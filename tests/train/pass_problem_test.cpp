// Minimizers on the distributed objective: they reach its minimum, with the same bits on any number of
// workers.
#include "lockstep/train/pass_problem.h"

#include <gtest/gtest.h>

#include "comm/threaded_communicator.h"
#include "lockstep/comm/device_communicator.h"
#include "lockstep/curvature/spectrum.h"
#include "lockstep/minimize/minimizer.h"
#include "lockstep/train/least_squares_pass.h"
#include "train/small_run.h"

namespace lockstep {
namespace {

using testing::SmallRun;
using testing::SmallRunOptions;
using Make = std::function<std::unique_ptr<Minimizer>()>;

std::map<std::string, Make> methods() {
  return {{"gradient_descent", [] { return make_line_descent(); }},
          {"momentum", [] { return make_momentum_descent(); }},
          {"lbfgs", [] { return make_lbfgs(); }},
          {"newton_cg", [] { return make_newton_cg(); }},
          {"newton_cg_gauss_newton", [] { return make_newton_cg({.matrix = "gauss_newton"}); }},
          {"natural_gradient", [] { return make_natural_gradient(); }},
          {"trust_region", [] { return make_trust_region(); }}};
}

struct End {
  RealVector x;
  std::vector<double> numbers;  // value, evaluations
  std::map<std::string, RealVector> state;
  bool operator==(const End&) const = default;
};

// What all workers end with, checked to be the same: `steps` steps of `make` from x and state where they are
// given.
End run_on(int workers, const SmallRunOptions& options, const Make& make, int64_t steps,
           const End* from = nullptr) {
  std::vector<End> ends(static_cast<size_t>(workers));
  testing::run_threaded(
      workers,
      [&](Communicator& communicator) {
        if (test_device() == "cuda") {
          communicator.use_device(
              make_staged_communicator(communicator, test_backend().lane().native_queue()));
        }
        SmallRun run(options, communicator);
        run.set_batch();
        PassProblem problem(*run.pass, *run.replica);
        const std::unique_ptr<Minimizer> minimizer = make();
        if (from != nullptr) minimizer->set_state(from->state);
        const MinimizeResult result =
            minimize(problem, *minimizer, from != nullptr ? from->x : problem.parameters(),
                     {.gradient = 0.0, .most_steps = steps});
        const Evaluations& made = result.evaluations;
        ends[static_cast<size_t>(communicator.rank())] = {
            result.at.x,
            {result.at.value, static_cast<double>(made.values), static_cast<double>(made.gradients),
             static_cast<double>(made.products)},
            minimizer->state(problem.size())};
      },
      20.0, true);
  for (const End& end : ends) EXPECT_EQ(end.x, ends[0].x);
  return ends[0];
}

TEST(PassProblem, EveryMethodTakesTheSameStepsOnAnyNumberOfWorkers) {
  for (const auto& [name, make] : methods()) {
    for (const DType compute : {DType::kF64, DType::kF32}) {
      SmallRunOptions options;
      options.settings.compute = compute;
      options.settings.l2 = 0.01;
      const End alone = run_on(1, options, make, 4);
      SmallRunOptions sharded = options;
      sharded.settings.shard_optimizer = true;
      EXPECT_TRUE(run_on(2, options, make, 4) == alone) << name;
      EXPECT_TRUE(run_on(3, sharded, make, 4) == alone) << name;
      // Stopped after two steps on one number of workers, and gone on with on another.
      const End half = run_on(3, options, make, 2);
      EXPECT_EQ(run_on(2, options, make, 2, &half).x, alone.x) << name;
    }
  }
}

TEST(PassProblem, LogisticRegressionIsSolvedByNewtonAndByLbfgs) {
  SmallRunOptions options;
  options.settings.compute = DType::kF64;
  options.settings.l2 = 0.1;
  options.model = "type = \"logistic\"\n";
  const std::unique_ptr<Communicator> self = make_self_communicator();
  SmallRun run(options, *self);
  run.set_batch();
  PassProblem problem(*run.pass, *run.replica);
  const RealVector start = problem.parameters();
  const MinimizeResult newton = minimize(problem, *make_newton(), start, {.gradient = 1e-12});
  EXPECT_EQ(newton.outcome, Outcome::kConverged);
  EXPECT_LE(newton.steps, 8);
  for (const auto& [name, make] : methods()) {
    const MinimizeResult result = minimize(problem, *make(), start, {.gradient = 1e-9});
    EXPECT_EQ(result.outcome, Outcome::kConverged) << name;
    for (size_t i = 0; i < start.size(); ++i) EXPECT_NEAR(result.at.x[i], newton.at.x[i], 1e-7) << name;
  }
  problem.set_parameters(newton.at.x);
  EXPECT_EQ(problem.parameters(), newton.at.x);
}

// Of softmax regression with inputs x and a bias: (1/N) sum_i (diag p - p p') (x) [x; 1] [x; 1]'.
TEST(PassProblem, SpectrumOfSoftmaxRegressionIsTheClosedForm) {
  SmallRunOptions options;
  options.settings.compute = DType::kF64;
  options.model = "type = \"logistic\"\n";
  const std::unique_ptr<Communicator> self = make_self_communicator();
  SmallRun run(options, *self);
  run.set_batch();
  PassProblem problem(*run.pass, *run.replica);
  constexpr int64_t kInputs = 4, kClasses = 3, kAll = (kInputs + 1) * kClasses;
  ASSERT_EQ(problem.size(), kAll);
  ASSERT_EQ(run.replica->store.parameters()[0].shape, Shape({kInputs, kClasses}));  // the bias behind it
  RealVector at(static_cast<size_t>(kAll));
  for (size_t i = 0; i < at.size(); ++i) at[i] = 0.3 * static_cast<double>(i % 5) - 0.5;
  DenseMatrix expected(kAll, kAll);
  double samples = 0.0;
  for (const Batch& batch : run.batches) {
    const std::vector<double> inputs = batch.inputs().to_vector<double>();
    for (size_t row = 0; row < inputs.size(); row += kInputs) {
      samples += 1.0;
      const auto x = [&](int64_t i) { return i < kInputs ? inputs[row + static_cast<size_t>(i)] : 1.0; };
      double p[kClasses], sum = 0.0;
      for (int64_t c = 0; c < kClasses; ++c) {
        double logit = 0.0;
        for (int64_t i = 0; i <= kInputs; ++i) logit += x(i) * at[static_cast<size_t>(i * kClasses + c)];
        sum += p[c] = std::exp(logit);
      }
      for (int64_t a = 0; a < kAll; ++a) {
        for (int64_t b = 0; b < kAll; ++b) {
          const double pa = p[a % kClasses] / sum, pb = p[b % kClasses] / sum;
          expected(a, b) +=
              ((a % kClasses == b % kClasses ? pa : 0.0) - pa * pb) * x(a / kClasses) * x(b / kClasses);
        }
      }
    }
  }
  scale_by(1.0 / samples, expected.elements);
  const SymmetricEigen known = symmetric_eigen(expected);
  for (const bool hessian : {true, false}) {
    const SymmetricProduct product = [&](const RealVector& v, RealVector& out) {
      hessian ? problem.hessian_product(at, v, out) : problem.gauss_newton_product(at, v, out);
    };
    const Spectrum spectrum = measure_spectrum(product, kAll, {.probes = 1});
    ASSERT_EQ(spectrum.eigenvalues.size(), known.values.size());
    for (size_t i = 0; i < known.values.size(); ++i)
      EXPECT_NEAR(spectrum.eigenvalues[i].value, known.values[i], 1e-13) << i;
    // Logits may all move together: 0, once an input and the bias.
    EXPECT_EQ(spectrum.definiteness(), "singular");
  }
}

// Between products at one point others may be asked for, and the parameters be somewhere else.
TEST(PassProblem, ProductsAreOfTheirPointWhereverTheParametersHaveBeen) {
  SmallRunOptions options;
  options.settings.compute = DType::kF64;
  const std::unique_ptr<Communicator> self = make_self_communicator();
  const auto products = [&](bool hessian, size_t kept) {
    options.settings.linearization_bytes = kept;
    SmallRun run(options, *self);
    run.set_batch();
    PassProblem problem(*run.pass, *run.replica);
    const RealVector x = problem.parameters();
    RealVector y = x, v(x.size()), out;
    for (size_t i = 0; i < x.size(); ++i) {
      v[i] = 0.1 * static_cast<double>(i % 7) - 0.3;
      y[i] += 0.5 * v[i];
    }
    std::vector<RealVector> result;
    const auto ask = [&](const RealVector& at, const RealVector& along) {
      hessian ? problem.hessian_product(at, along, out) : problem.gauss_newton_product(at, along, out);
      result.push_back(out);
    };
    ask(x, v);
    ask(x, y);
    ask(y, v);
    ask(x, v);
    problem.set_parameters(y);
    ask(x, y);
    problem.value(y);
    ask(x, v);
    run.set_batch(1);
    ask(x, v);
    return result;
  };
  for (const bool hessian : {true, false}) {
    const std::vector<RealVector> found = products(hessian, size_t{1} << 20);
    EXPECT_EQ(found, products(hessian, 0)) << hessian;
    EXPECT_EQ(found[0], found[3]);
    EXPECT_EQ(found[1], found[4]);
    EXPECT_EQ(found[0], found[5]);
    EXPECT_NE(found[0], found[2]);
    EXPECT_NE(found[0], found[6]);
  }
}

// A network with two outputs, real targets, weights and regularization.
TEST(LeastSquaresPass, IsTheSameObjectiveWithTheSameDerivativesOnAnyNumberOfWorkers) {
  SmallRunOptions options;
  options.data = {{4}, DType::kF32, 0, 2};
  options.settings.compute = DType::kF64;
  options.settings.l2 = 0.01;
  RealVector residuals, derivatives, squared;
  for (const int workers : {1, 2, 3}) {
    testing::run_threaded(
        workers,
        [&](Communicator& communicator) {
          if (test_device() == "cuda") {
            communicator.use_device(
                make_staged_communicator(communicator, test_backend().lane().native_queue()));
          }
          SmallRun run(options, communicator);
          run.batches.clear();
          for (int64_t m = run.owned.begin; m < run.owned.end; ++m)
            run.batches.push_back(
                run.batch(m, 0, m == 1 ? std::vector<double>{0.5, 2.0, 0.0} : std::vector<double>()));
          run.pass->set_batch(run.batches, 0);
          PassProblem plain(*run.pass, *run.replica);
          LeastSquaresPass squares(*run.pass, *run.replica, run.settings());
          const RealVector x = plain.parameters();
          RealVector expected, gradient, r, product, v(x.size());
          EXPECT_NEAR(squares.value_and_gradient(x, gradient), plain.value_and_gradient(x, expected), 1e-13);
          EXPECT_EQ(squares.weight(), plain.weight());
          for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(gradient[i], expected[i], 1e-13);
          DenseMatrix jacobian(squares.residual_count(), squares.size());
          squares.residuals(x, r, &jacobian);
          EXPECT_EQ(squares.value(x), 0.5 * dot(r, r));
          for (size_t i = 0; i < v.size(); ++i) v[i] = 0.1 * static_cast<double>(i % 7) - 0.3;
          plain.gauss_newton_product(x, v, expected);
          product = multiply_transposed(jacobian, multiply(jacobian, v));
          for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(product[i], expected[i], 1e-13);
          RealVector diagonal;
          squares.gauss_newton_diagonal(x, diagonal);
          expected = column_squares(jacobian);
          for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(diagonal[i], expected[i], 1e-13);
          if (communicator.rank() > 0) return;
          if (workers == 1) {
            squared = diagonal;
            residuals = r;
            derivatives = jacobian.elements;
          }
          EXPECT_EQ(r, residuals);
          EXPECT_EQ(jacobian.elements, derivatives);
          EXPECT_EQ(diagonal, squared);
        },
        20.0, true);
  }
}

TEST(PassProblem, PlacesPointsWhereParametersCanBe) {
  SmallRunOptions options;
  options.settings.compute = DType::kF32;
  const std::unique_ptr<Communicator> self = make_self_communicator();
  SmallRun run(options, *self);
  PassProblem problem(*run.pass, *run.replica);
  RealVector x(static_cast<size_t>(problem.size()), 0.1);
  problem.place(x);
  for (const double value : x) EXPECT_EQ(value, static_cast<double>(0.1f));
  problem.set_parameters(x);
  EXPECT_EQ(problem.parameters(), x);
}

}  // namespace
}  // namespace lockstep
