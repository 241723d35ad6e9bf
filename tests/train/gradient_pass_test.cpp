// The distributed objective against differences of itself, and its bits on any number of workers.
#include "lockstep/train/gradient_pass.h"

#include <gtest/gtest.h>

#include "comm/threaded_communicator.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/comm/device_communicator.h"
#include "train/small_run.h"

namespace lockstep {
namespace {

using testing::SmallRun;
using testing::SmallRunOptions;
using testing::values_of;

SmallRunOptions in_fp64() {
  SmallRunOptions options;
  options.settings.compute = DType::kF64;
  return options;
}

// A direction in parameter space; zero in the gaps between parameters, as everything that is summed is.
std::vector<double> direction(const SmallRun& run, uint32_t stream) {
  const std::vector<double> draws = values_of(run.replica->store.parameter_extent(), stream);
  std::vector<double> result(draws.size(), 0.0);
  for (const ParameterEntry& entry : run.replica->store.parameters()) {
    for (int64_t i = entry.offset; i < entry.offset + entry.shape.elements(); ++i)
      result[static_cast<size_t>(i)] = draws[static_cast<size_t>(i)];
  }
  return result;
}

std::vector<double> moved(std::vector<double> from, const std::vector<double>& along, double by) {
  for (size_t i = 0; i < from.size(); ++i) from[i] += by * along[i];
  return from;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

std::vector<double> gradient_of(SmallRun& run) {
  Tensor gradient = run.replica->store.values().empty_like();
  run.pass->value_and_gradient(gradient);
  return gradient.to_vector<double>();
}

enum class Kind { kHessian, kGaussNewton };

std::vector<double> product_of(SmallRun& run, const std::vector<double>& vector, Kind kind) {
  const Tensor values = run.replica->store.values();
  const Tensor v = Tensor::from(values.shape(), vector, test_backend()).converted(values.dtype());
  Tensor product = values.empty_like();
  if (kind == Kind::kHessian) {
    run.pass->hessian_product(v, product);
  } else {
    run.pass->gauss_newton_product(v, product);
  }
  return product.to_vector<double>();
}

const std::string kDropoutModel = R"(type = "sequential"
[[model.layers]]
type = "linear"
units = 8
[[model.layers]]
type = "activation"
function = "tanh"
[[model.layers]]
type = "dropout"
rate = 0.5
[[model.layers]]
type = "linear"
units = 3
)";

// A single worker with a batch.
struct Alone {
  explicit Alone(const SmallRunOptions& options) : run(options, *self) { run.set_batch(); }
  std::unique_ptr<Communicator> self = make_self_communicator();
  SmallRun run;
};

TEST(GradientPass, TheGradientIsThatOfTheValue) {
  for (const double l2 : {0.0, 0.3}) {
    SmallRunOptions options = in_fp64();
    options.settings.l2 = l2;
    if (l2 > 0.0) options.settings.objective = {.label_smoothing = 0.2, .class_weights = {1.0, 0.5, 2.0}};
    Alone alone(options);
    SmallRun& run = alone.run;
    const std::vector<double> start = run.parameters(), gradient = gradient_of(run);
    for (uint32_t stream = 1; stream < 6; ++stream) {
      const std::vector<double> along = direction(run, stream);
      run.set_parameters(moved(start, along, 1e-5));
      const double above = run.pass->value().loss;
      run.set_parameters(moved(start, along, -1e-5));
      const double below = run.pass->value().loss;
      EXPECT_NEAR(dot(gradient, along), (above - below) / 2e-5, 1e-8) << l2;
    }
  }
}

TEST(GradientPass, TheValueIsTheWeightedMeanOfTheLosses) {
  Alone alone(in_fp64());
  SmallRun& run = alone.run;
  run.batches.clear();
  double losses = 0.0, weights = 0.0;
  for (int64_t m = 0; m < 4; ++m) {
    // The third micro-batch counts for nothing.
    const std::vector<double> w = m == 2 ? std::vector<double>(3, 0.0) : std::vector<double>{1.0, 0.5, 2.0};
    run.batches.push_back(run.batch(m, 0, w));
    const Batch plain = run.batch(m);
    const RecordingScope off(false);
    const std::vector<double> each =
        run.objective->losses(run.replica->model->forward(plain.inputs(), run.replica->training), plain)
            .to_vector<double>();
    for (size_t i = 0; i < 3; ++i) {
      losses += w[i] * each[i];
      weights += w[i];
    }
  }
  run.pass->set_batch(run.batches, 0);
  const GradientPass::Value value = run.pass->value();
  EXPECT_EQ(value.weight, weights);
  EXPECT_NEAR(value.loss, losses / weights, 1e-14);
}

// Two labels a sample, at positions, each with a weight of its own, some of which are 0.
SmallRunOptions with_positions() {
  SmallRunOptions options = in_fp64();
  options.data.positions = {2};
  return options;
}
std::vector<Batch> weighed_batches(const SmallRun& run) {
  std::vector<Batch> batches;
  for (int64_t m = run.owned.begin; m < run.owned.end; ++m) {
    // The second micro-batch counts for nothing.
    batches.push_back(run.batch(
        m, 0, m == 1 ? std::vector<double>(6, 0.0) : std::vector<double>{1.0, 0.0, 0.0, 0.0, 0.25, 2.0}));
  }
  return batches;
}

TEST(GradientPass, OfLossesAndWeightsAtPositionsIsThatOfTheWeightedMean) {
  Alone alone(with_positions());
  SmallRun& run = alone.run;
  run.batches = weighed_batches(run);
  run.pass->set_batch(run.batches, 0);
  double losses = 0.0;
  for (int64_t m = 0; m < 4; ++m) {
    const RecordingScope off(false);
    const Batch& batch = run.batches[static_cast<size_t>(m)];
    const Tensor each =
        run.objective->losses(run.replica->model->forward(batch.inputs(), run.replica->training), batch);
    EXPECT_EQ(each.shape(), (Shape{3, 2}));
    for (const double loss : each.to_vector<double>()) losses += loss;
  }
  const GradientPass::Value value = run.pass->value();
  EXPECT_EQ(value.weight, 3 * 3.25);
  EXPECT_NEAR(value.loss, losses / value.weight, 1e-14);

  const std::vector<double> start = run.parameters(), gradient = gradient_of(run);
  const std::vector<double> along = direction(run, 81);
  const std::vector<double> hv = product_of(run, along, Kind::kHessian);
  run.set_parameters(moved(start, along, 1e-5));
  const double above = run.pass->value().loss;
  const std::vector<double> gradient_above = gradient_of(run);
  run.set_parameters(moved(start, along, -1e-5));
  EXPECT_NEAR(dot(gradient, along), (above - run.pass->value().loss) / 2e-5, 1e-8);
  const std::vector<double> gradient_below = gradient_of(run);
  for (size_t i = 0; i < hv.size(); ++i)
    EXPECT_NEAR(hv[i], (gradient_above[i] - gradient_below[i]) / 2e-5, 1e-8) << i;
}

TEST(GradientPass, WhereNothingCountsEverythingIsZero) {
  Alone alone(in_fp64());
  SmallRun& run = alone.run;
  run.batches.clear();
  for (int64_t m = 0; m < 4; ++m) run.batches.push_back(run.batch(m, 0, std::vector<double>(3, 0.0)));
  run.pass->set_batch(run.batches, 0);
  const GradientPass::Value value = run.pass->value();
  EXPECT_EQ(value.weight, 0.0);
  EXPECT_EQ(value.loss, 0.0);
  for (const double g : gradient_of(run)) EXPECT_EQ(g, 0.0);
}

TEST(GradientPass, HessianProductsAreDifferencesOfGradientsAndSymmetric) {
  SmallRunOptions options = in_fp64();
  options.settings.l2 = 0.1;
  Alone alone(options);
  SmallRun& run = alone.run;
  const std::vector<double> start = run.parameters();
  const std::vector<double> u = direction(run, 21), v = direction(run, 22);
  const std::vector<double> hu = product_of(run, u, Kind::kHessian), hv = product_of(run, v, Kind::kHessian);
  EXPECT_NEAR(dot(u, hv), dot(v, hu), 1e-12);
  run.set_parameters(moved(start, v, 1e-5));
  const std::vector<double> above = gradient_of(run);
  run.set_parameters(moved(start, v, -1e-5));
  const std::vector<double> below = gradient_of(run);
  for (size_t i = 0; i < hv.size(); ++i) EXPECT_NEAR(hv[i], (above[i] - below[i]) / 2e-5, 1e-8) << i;
}

// However much of them is kept, and of the batch that is there.
TEST(GradientPass, HessianProductsAtOnePointKeepWhatTheyRecordedAndAreTheSameBits) {
  SmallRunOptions options = in_fp64();
  options.settings.l2 = 0.1;
  options.model = kDropoutModel;
  Alone alone(options);
  SmallRun& run = alone.run;
  const Tensor values = run.replica->store.values();
  const auto vector = [&](uint32_t stream) {
    return Tensor::from(values.shape(), direction(run, stream), test_backend()).converted(values.dtype());
  };
  const auto product = [&](SmallRun& of, uint32_t stream, GradientPass::Linearization* kept) {
    Tensor result = values.empty_like();
    of.pass->hessian_product(vector(stream), result, kept);
    return result.to_vector<double>();
  };
  std::vector<std::vector<double>> expected;
  for (const int64_t step : {0, 1}) {
    run.set_batch(step);
    for (const uint32_t stream : {21, 22, 21}) expected.push_back(product(run, stream, nullptr));
  }
  EXPECT_NE(expected[0], expected[3]);
  size_t all = 0;
  for (const size_t part : {1, 2, 0}) {  // of what all micro-batches take: all, half of it, nothing
    options.settings.linearization_bytes = part == 1 ? size_t{1} << 20 : part == 2 ? all / 2 + 1 : 0;
    Alone other(options);
    GradientPass::Linearization kept;
    std::vector<std::vector<double>> found;
    for (const int64_t step : {0, 1}) {
      other.run.set_batch(step);
      for (const uint32_t stream : {21, 22, 21}) {
        found.push_back(product(other.run, stream, &kept));
        EXPECT_EQ(kept.of.size(), part == 1 ? 4u : part == 2 ? 2u : 0u);
      }
    }
    EXPECT_EQ(found, expected) << part;
    if (part == 1) all = kept.bytes;
    EXPECT_EQ(kept.full, part == 2);
    EXPECT_LE(kept.bytes, options.settings.linearization_bytes);
  }
  EXPECT_GT(all, 0u);
  // Of micro-batches that are made for each product, what was made is kept with the rest and counts.
  options.settings.linearization_bytes = size_t{1} << 20;
  Alone other(options);
  const auto make = [&](int64_t number) { return other.run.batch(number, 0); };
  other.run.pass->set_batches(other.run.owned, make, 0);
  GradientPass::Linearization kept;
  EXPECT_EQ(product(other.run, 21, &kept), expected[0]);
  EXPECT_EQ(product(other.run, 22, &kept), expected[1]);
  EXPECT_EQ(kept.bytes, all + 4 * make(0).bytes());
}

TEST(GradientPass, TheGaussNewtonMatrixOfALinearModelIsTheHessian) {
  for (const int64_t classes : {0, 3}) {
    SmallRunOptions options = in_fp64();
    options.data.classes = classes;
    options.data.targets = 2;
    options.model = classes > 0 ? "type = \"logistic\"\n"
                                : "type = \"sequential\"\n[[model.layers]]\ntype = \"linear\"\nunits = 2\n";
    Alone alone(options);
    const std::vector<double> v = direction(alone.run, 31);
    const std::vector<double> hessian = product_of(alone.run, v, Kind::kHessian);
    const std::vector<double> gauss_newton = product_of(alone.run, v, Kind::kGaussNewton);
    for (size_t i = 0; i < v.size(); ++i) EXPECT_NEAR(hessian[i], gauss_newton[i], 1e-13) << i;
  }
}

TEST(GradientPass, TheGaussNewtonMatrixIsSymmetricAndPositiveWhereTheHessianIsNot) {
  Alone alone(in_fp64());
  const std::vector<double> u = direction(alone.run, 41), v = direction(alone.run, 42);
  const std::vector<double> gv = product_of(alone.run, v, Kind::kGaussNewton);
  EXPECT_NEAR(dot(u, gv), dot(v, product_of(alone.run, u, Kind::kGaussNewton)), 1e-12);
  for (uint32_t stream = 50; stream < 60; ++stream) {
    const std::vector<double> w = direction(alone.run, stream);
    EXPECT_GE(dot(w, product_of(alone.run, w, Kind::kGaussNewton)), 0.0);
  }
}

TEST(GradientPass, IsRepeatableAtOtherParametersWithTheSameDropout) {
  SmallRunOptions options = in_fp64();
  options.model = kDropoutModel;
  Alone alone(options);
  SmallRun& run = alone.run;
  const std::vector<double> start = run.parameters(), along = direction(run, 61);
  const std::vector<double> gradient = gradient_of(run);
  const double loss = run.pass->value().loss;
  run.set_parameters(moved(start, along, 1e-5));
  const double above = run.pass->value().loss;
  run.set_parameters(moved(start, along, -1e-5));
  const double below = run.pass->value().loss;
  EXPECT_NEAR(dot(gradient, along), (above - below) / 2e-5, 1e-8);
  const std::vector<double> hv = product_of(run, along, Kind::kHessian);
  run.set_parameters(start);
  EXPECT_EQ(run.pass->value().loss, loss);
  EXPECT_EQ(gradient_of(run), gradient);
  product_of(run, along, Kind::kGaussNewton);
  EXPECT_EQ(gradient_of(run), gradient);
  // Another step draws other masks.
  run.pass->set_batch(run.batches, 1);
  EXPECT_NE(run.pass->value().loss, loss);
}

// What two batches share has one gradient in both of them, draws included, on any number of workers: that of
// its own micro-batches alone.
TEST(GradientPass, WhatBatchesShareHasOneGradientInBoth) {
  for (const auto& [overlap, model] : {std::pair<int64_t, std::string>{1, kDropoutModel},
                                       {2, kDropoutModel},
                                       {2, SmallRunOptions().model}}) {
    std::vector<double> alone;
    for (const int workers : {1, 2, 3}) {
      SmallRunOptions options = in_fp64();
      options.model = model;
      options.micro_batches = 5;
      options.overlap = overlap;
      options.settings.l2 = 0.01;
      std::vector<std::vector<double>> results(static_cast<size_t>(workers));
      testing::run_threaded(
          workers,
          [&, overlap = overlap](Communicator& communicator) {
            if (test_device() == "cuda") {
              communicator.use_device(
                  make_staged_communicator(communicator, test_backend().lane().native_queue()));
            }
            SmallRun run(options, communicator);
            const int64_t stride = options.micro_batches - overlap;
            std::vector<double>& result = results[static_cast<size_t>(communicator.rank())];
            Tensor gradient = run.replica->store.values().empty_like();
            std::vector<double> after;
            for (const int64_t step : {7, 8}) {
              run.batches.clear();
              for (int64_t m = run.owned.begin; m < run.owned.end; ++m) {
                // Data by their place in the stream of both batches.
                run.batches.push_back(run.batch(step == 7 ? m : m + stride));
                run.batches.back().number = m;
              }
              run.pass->set_batch(run.batches, step);
              run.pass->value_and_gradient(gradient);
              const GradientPass::Shared shared = run.pass->shared_gradients();
              const std::vector<double> before = shared.before.to_vector<double>();
              for (size_t i = 0; i < after.size(); ++i) EXPECT_NEAR(before[i], after[i], 1e-14);
              after = shared.after.to_vector<double>();
              result.insert(result.end(), before.begin(), before.end());
              result.insert(result.end(), after.begin(), after.end());
            }
          },
          20.0, true);
      if (alone.empty()) alone = results[0];
      for (const std::vector<double>& result : results) EXPECT_EQ(result, alone) << workers;
    }
  }
  // Alone: the whole batch of a run of two micro-batches.
  SmallRunOptions both = in_fp64(), shared = in_fp64();
  both.micro_batches = 2;
  shared.micro_batches = 5;
  shared.overlap = 2;
  Alone expected(both), found(shared);
  const std::vector<double> gradient = gradient_of(expected.run);
  gradient_of(found.run);
  const std::vector<double> before = found.run.pass->shared_gradients().before.to_vector<double>();
  for (size_t i = 0; i < gradient.size(); ++i) EXPECT_NEAR(before[i], gradient[i], 1e-14);
  // Nothing of it counts.
  std::vector<Batch>& batches = found.run.batches;
  for (const size_t m : {3, 4}) batches[m] = found.run.batch(static_cast<int64_t>(m), 0, {0.0, 0.0, 0.0});
  found.run.pass->set_batch(batches, 0);
  gradient_of(found.run);
  EXPECT_FALSE(found.run.pass->shared_gradients().after.defined());
  EXPECT_TRUE(found.run.pass->shared_gradients().before.defined());
}

// Everything that a pass gives, on every worker, must be the same bits.
TEST(GradientPass, IsTheSameBitsOnAnyNumberOfWorkersShardedOrNot) {
  for (const std::pair<DType, bool>& run_kind :
       {std::pair(DType::kF64, false), {DType::kF32, false}, {DType::kF32, true}}) {
    const DType compute = run_kind.first;
    const bool positions = run_kind.second;
    std::vector<double> alone;
    for (const int workers : {1, 2, 3, 4}) {
      for (const bool sharded : {false, true}) {
        SmallRunOptions options = positions ? with_positions() : SmallRunOptions();
        options.settings.compute = compute;
        options.settings.shard_optimizer = sharded;
        options.settings.l2 = 0.01;
        options.overlap = workers % 2;  // changes nothing of what is not about it
        std::vector<std::vector<double>> results(static_cast<size_t>(workers));
        testing::run_threaded(
            workers,
            [&](Communicator& communicator) {
              if (test_device() == "cuda") {
                communicator.use_device(
                    make_staged_communicator(communicator, test_backend().lane().native_queue()));
              }
              SmallRun run(options, communicator);
              run.set_batch();
              if (positions) {
                run.batches = weighed_batches(run);
                run.pass->set_batch(run.batches, 0);
              }
              std::vector<double>& result = results[static_cast<size_t>(communicator.rank())];
              Tensor gradient = run.replica->store.values().empty_like();
              const GradientPass::Value value = run.pass->value_and_gradient(gradient);
              result = gradient.to_vector<double>();
              result.push_back(value.loss);
              result.push_back(value.weight);
              result.push_back(run.pass->value().loss);
              const std::vector<double> v = direction(run, 71);
              for (const Kind kind : {Kind::kHessian, Kind::kGaussNewton}) {
                for (const double element : product_of(run, v, kind)) result.push_back(element);
              }
            },
            20.0, true);
        if (alone.empty()) alone = results[0];
        for (const std::vector<double>& result : results) {
          EXPECT_EQ(result, alone) << workers << (sharded ? " sharded" : "");
        }
      }
    }
  }
}

TEST(GradientPass, RefusesSecondDerivativesInSixteenBits) {
  SmallRunOptions options;
  options.settings.compute = DType::kBF16;
  Alone alone(options);
  try {
    product_of(alone.run, direction(alone.run, 1), Kind::kHessian);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(), "precision.compute = bf16: Hessian products need fp32 or fp64");
  }
}

// ---- as in evaluation

// Dropout and batch norm, which would draw and look at the micro-batch in training.
SmallRunOptions noisy() {
  SmallRunOptions options = in_fp64();
  options.model =
      "type = \"sequential\"\nlayers = [{ type = \"linear\", units = 5 }, { type = \"batch_norm\" }, "
      "{ type = \"activation\", function = \"tanh\" }, { type = \"dropout\", probability = 0.5 }, "
      "{ type = \"linear\", units = 3 }]\n";
  return options;
}

TEST(GradientPass, InEvaluationNothingIsDrawnAndProductsAreThoseOfTheGradient) {
  Alone alone(noisy());
  SmallRun& run = alone.run;
  run.replica->training = run.replica->evaluation();
  const std::vector<double> start = run.parameters(), along = direction(run, 3);
  const double value = run.pass->value().loss;
  const std::vector<double> product = product_of(run, along, Kind::kHessian), gradient = gradient_of(run);
  for (const double sign : {1.0, -1.0}) {
    run.set_parameters(moved(start, along, sign * 1e-5));
    const std::vector<double> there = gradient_of(run);
    for (size_t i = 0; i < product.size(); ++i)
      EXPECT_NEAR((there[i] - gradient[i]) * sign / 1e-5, product[i], 1e-3) << i;
  }
  run.set_parameters(start);
  const std::vector<double> batches = gradient_of(run);
  run.pass->set_batch(run.batches, 7);
  EXPECT_EQ(run.pass->value().loss, value) << "another step, no other masks";
  EXPECT_EQ(gradient_of(run), batches);
  const std::vector<double> again = product_of(run, along, Kind::kHessian);
  EXPECT_EQ(again, product);
}

// Batches that are made anew in each sweep, of weights that differ.
TEST(GradientPass, VarianceOfTheGradientIsThatOfTheMicroBatches) {
  const auto weights = [](int64_t m) {
    return m == 2 ? std::vector<double>(3, 0.0) : std::vector<double>{1.0, 0.5 * static_cast<double>(m), 2.0};
  };
  const auto measured = [&](Communicator& communicator, bool shard) {
    SmallRunOptions options = in_fp64();
    options.settings.shard_optimizer = shard;
    SmallRun run(options, communicator);
    run.pass->set_batches(
        run.owned, [&](int64_t m) { return run.batch(m, 0, weights(m)); }, 0);
    return std::pair(run.pass->gradient_variance(), product_of(run, direction(run, 1), Kind::kHessian));
  };
  const std::unique_ptr<Communicator> self = make_self_communicator();
  const auto alone = measured(*self, false);
  // From the gradients of each micro-batch by itself.
  SmallRunOptions one = in_fp64();
  one.micro_batches = 1;
  SmallRun run(one, *self);
  std::vector<double> sum(static_cast<size_t>(run.replica->store.parameter_extent()), 0.0);
  double squares = 0.0, weight = 0.0;
  for (const int64_t m : {0, 1, 3}) {
    run.batches = {run.batch(m, 0, weights(m))};
    run.batches[0].number = 0;
    run.pass->set_batch(run.batches, 0);
    const std::vector<double> mean = gradient_of(run);
    const double w = 3.0 + 0.5 * static_cast<double>(m);
    squares += w * dot(mean, mean);
    weight += w;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += w * mean[i];
  }
  EXPECT_NEAR(alone.first, (squares - dot(sum, sum) / weight) / 2.0, 1e-12);
  run.batches = {run.batch(0)};
  run.pass->set_batch(run.batches, 0);
  EXPECT_TRUE(std::isnan(run.pass->gradient_variance()));
  for (const int workers : {2, 3}) {
    testing::run_threaded(
        workers,
        [&](Communicator& communicator) {
          if (test_device() == "cuda") {
            communicator.use_device(
                make_staged_communicator(communicator, test_backend().lane().native_queue()));
          }
          EXPECT_EQ(measured(communicator, workers == 3), alone);
        },
        20.0, true);
  }
}

}  // namespace
}  // namespace lockstep
