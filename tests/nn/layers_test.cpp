// How layers behave in training and in evaluation.
#include <gtest/gtest.h>

#include <cmath>

#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/nn/batch_norm.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/pooling.h"
#include "lockstep/nn/recurrent.h"
#include "lockstep/nn/residual_block.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

constexpr double kEpsilon = 1e-5;

// (2,2,2,3): 8 values a channel, each channel with its own mean and spread.
std::vector<double> image_values() {
  std::vector<double> values = uniform_values(24, 3);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto channel = static_cast<double>(i % 3);
    values[i] = 5.0 * channel + (1.0 + channel) * values[i];
  }
  return values;
}

struct ChannelStatistics {
  double mean = 0.0, biased = 0.0;
};

ChannelStatistics statistics_of(const std::vector<double>& x, size_t channel) {
  ChannelStatistics s;
  for (size_t i = channel; i < x.size(); i += 3) s.mean += x[i] / 8.0;
  for (size_t i = channel; i < x.size(); i += 3) s.biased += (x[i] - s.mean) * (x[i] - s.mean) / 8.0;
  return s;
}

struct NormedImage {
  ParameterStore store;
  BatchNormLayer layer{3, {0.3, kEpsilon}, ModuleBuilder(store, "norm")};
  std::vector<double> values = image_values();
  Tensor x = Tensor::from({2, 2, 2, 3}, values, test_backend());
  NormedImage() { store.allocate(DType::kF64, test_backend(), 1); }
};

TEST(BatchNorm, TrainingNormalizesByTheMicroBatchAndLeavesItsStatistics) {
  NormedImage image;
  ForwardContext context = forward_context(image.store, true);
  const Tensor y = image.layer.forward(image.x, context);
  const auto values = y.to_vector<double>();
  const auto mean = context.batch_statistics[0].to_vector<double>();
  const auto variance = context.batch_statistics[1].to_vector<double>();
  for (size_t c = 0; c < 3; ++c) {
    const ChannelStatistics s = statistics_of(image.values, c);
    EXPECT_NEAR(mean[c], s.mean, 1e-13);
    EXPECT_NEAR(variance[c], s.biased * 8.0 / 7.0, 1e-13);
    for (size_t i = c; i < values.size(); i += 3) {
      EXPECT_NEAR(values[i], (image.values[i] - s.mean) / std::sqrt(s.biased + kEpsilon), 1e-12);
    }
  }
  EXPECT_NE(y.node(), nullptr);
  EXPECT_EQ(context.batch_statistics[0].node(), nullptr);
  EXPECT_EQ(context.batch_statistics[1].node(), nullptr);
}

TEST(BatchNorm, TrainingLeavesTheRunningStatisticsAlone) {
  NormedImage image;
  ForwardContext context = forward_context(image.store, true);
  image.layer.forward(image.x, context);
  EXPECT_EQ(image.store.statistic(0).to_vector<double>(), std::vector<double>(3, 0.0));
  EXPECT_EQ(image.store.statistic(1).to_vector<double>(), std::vector<double>(3, 1.0));
}

TEST(BatchNorm, EvaluationNormalizesByTheRunningStatistics) {
  NormedImage image;
  ForwardContext context = forward_context(image.store, false);
  context.statistics = {Tensor::from({3}, std::vector<double>{1.0, -2.0, 0.5}, test_backend()),
                        Tensor::from({3}, std::vector<double>{4.0, 0.25, 9.0}, test_backend())};
  const double mean[3] = {1.0, -2.0, 0.5}, variance[3] = {4.0, 0.25, 9.0};
  const auto values = image.layer.forward(image.x, context).to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_NEAR(values[i], (image.values[i] - mean[i % 3]) / std::sqrt(variance[i % 3] + kEpsilon), 1e-12);
  }
  EXPECT_FALSE(context.batch_statistics[0].defined());
}

TEST(BatchNorm, DeclaresItsMomentumForTheTrainer) {
  NormedImage image;
  ASSERT_EQ(image.store.statistics().size(), 2u);
  EXPECT_EQ(image.store.statistics()[0].name, "norm.running_mean");
  EXPECT_EQ(image.store.statistics()[1].name, "norm.running_variance");
  EXPECT_EQ(image.store.statistics()[0].momentum, 0.3);
  EXPECT_EQ(image.store.statistics()[1].momentum, 0.3);
}

TEST(BatchStatistics, AreTakenOnceAndNamedWhenAPassLeavesThemOut) {
  NormedImage image;
  ForwardContext context = forward_context(image.store, true);
  image.layer.forward(image.x, context);
  const std::vector<double> mean = context.batch_statistics[0].to_vector<double>();
  const std::vector<Tensor> taken = take_batch_statistics(context, image.store);
  ASSERT_EQ(taken.size(), 2u);
  EXPECT_EQ(taken[0].to_vector<double>(), mean);
  // The next micro-batch goes through a module that leaves the variance out: not that of the one before.
  image.layer.forward(image.x, context);
  context.batch_statistics[1] = {};
  try {
    take_batch_statistics(context, image.store);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(),
                 "norm.running_variance: the forward pass in training left no statistic of this name");
  }
  EXPECT_THROW(take_batch_statistics(context, image.store), Error) << "nothing has been written since";
}

// Which would lie over those of other layers.
TEST(BatchStatistics, OfAnotherShapeOrTypeAreNamed) {
  NormedImage image;
  const int64_t channels = image.store.statistics()[1].shape.elements();
  for (const Tensor& wrong :
       {Tensor::zeros({channels + 1}, image.store.dtype(), cpu_backend()),
        Tensor::zeros({channels}, image.store.dtype() == DType::kF64 ? DType::kF32 : DType::kF64,
                      cpu_backend())}) {
    ForwardContext context = forward_context(image.store, true);
    image.layer.forward(image.x, context);
    context.batch_statistics[1] = wrong;
    try {
      take_batch_statistics(context, image.store);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find("norm.running_variance: the forward pass in training left "),
                std::string::npos)
          << error.what();
    }
  }
}

TEST(BatchNorm, RefusesToTrainOnASingleValueAChannel) {
  NormedImage image;
  ForwardContext context = forward_context(image.store, true);
  const Tensor x = Tensor::zeros({1, 3}, DType::kF64, test_backend());
  try {
    image.layer.forward(x, context);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(),
                 "norm: batch norm needs at least 2 values a channel in training: micro-batch (1,3)");
  }
  ForwardContext evaluation = forward_context(image.store, false);
  EXPECT_EQ(image.layer.forward(x, evaluation).shape(), (Shape{1, 3}));
}

TEST(Dropout, IsTheIdentityInEvaluation) {
  const DropoutLayer layer(0.5);
  ForwardContext context;
  const Tensor x = Tensor::from({4, 8}, uniform_values(32, 1), test_backend());
  EXPECT_EQ(layer.forward(x, context).to_vector<double>(),
            x.to_vector<double>());  // and needs no RandomScope
}

TEST(Dropout, DropsItsShareInTrainingAndReplaysItsDraws) {
  const DropoutLayer layer(0.25);
  ForwardContext context;
  context.training = true;
  const Tensor x = Tensor::full({100, 100}, DType::kF64, test_backend(), 3.0);
  const auto run = [&](uint32_t step) {
    RandomScope random(1, step, 0);
    return layer.forward(x, context).to_vector<double>();
  };
  const std::vector<double> y = run(0);
  size_t dropped = 0;
  for (double value : y) {
    if (value == 0.0) {
      ++dropped;
    } else {
      ASSERT_DOUBLE_EQ(value, 4.0);
    }
  }
  EXPECT_NEAR(static_cast<double>(dropped), 2500.0, 5.0 * std::sqrt(10000.0 * 0.25 * 0.75));
  EXPECT_EQ(y, run(0));
  EXPECT_NE(y, run(1));
}

TEST(Dropout, InTwoLayersOfAModelDrawsDifferently) {
  BuiltModel model(
      "[model]\ntype = 'sequential'\nlayers = [{type = 'dropout'}, {type = 'dropout'}, {type = 'flatten'}]",
      {{1000}, DType::kF32, 1000});
  model.allocate();
  ForwardContext context = forward_context(model.store, true);
  RandomScope random(1, 0, 0);
  const auto y = model.module->forward(Tensor::full({1, 1000}, DType::kF64, test_backend(), 1.0), context)
                     .to_vector<double>();
  // Two independent masks keep a quarter; twice the same mask would keep a half.
  EXPECT_NEAR(static_cast<double>(std::count(y.begin(), y.end(), 4.0)), 250.0,
              5.0 * std::sqrt(1000.0 * 0.25 * 0.75));
}

TEST(GlobalAveragePool, IsTheMeanOfEachChannel) {
  const std::vector<double> x = image_values();
  ForwardContext context;
  const Tensor y = GlobalAveragePoolLayer().forward(Tensor::from({2, 2, 2, 3}, x, test_backend()), context);
  ASSERT_EQ(y.shape(), (Shape{2, 3}));
  const auto values = y.to_vector<double>();
  for (size_t n = 0; n < 2; ++n) {
    for (size_t c = 0; c < 3; ++c) {
      const double expected =
          (x[n * 12 + c] + x[n * 12 + 3 + c] + x[n * 12 + 6 + c] + x[n * 12 + 9 + c]) / 4.0;
      EXPECT_NEAR(values[n * 3 + c], expected, 1e-14);
    }
  }
}

TEST(ResidualBlock, WithZeroWeightsIsTheActivationOfItsInput) {
  ParameterStore store;
  const ResidualBlock block(3, 3, {.initialization = Initializer::Kind::kZeros},
                            ModuleBuilder(store, "block"));
  store.allocate(DType::kF64, test_backend(), 1);
  ForwardContext context = forward_context(store, true);
  const std::vector<double> x = image_values();
  const auto y = block.forward(Tensor::from({2, 2, 2, 3}, x, test_backend()), context).to_vector<double>();
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], std::max(x[i], 0.0));
}

TEST(Recurrent, ReadsBackwardWhatItReadsForwardOfTheReversedSequence) {
  for (const bool sequence : {false, true}) {
    RecurrentOptions options;
    options.cell = RecurrentCell::kGru;
    options.sequence = sequence;
    ParameterStore store;
    const RecurrentLayer forward(3, 4, options, ModuleBuilder(store));
    options.direction = Direction::kBackward;
    ParameterStore same;
    const RecurrentLayer backward(3, 4, options, ModuleBuilder(same));
    store.allocate(DType::kF64, test_backend(), 9);
    same.allocate(DType::kF64, test_backend(), 9);
    ForwardContext context = forward_context(store, false);

    constexpr size_t kSteps = 5, kFeatures = 3, kUnits = 4;
    const std::vector<double> values = uniform_values(2 * kSteps * kFeatures, 8);
    const auto reversed = [](const std::vector<double>& x, size_t width) {
      std::vector<double> y(x.size());
      for (size_t row = 0; row < 2 * kSteps; ++row) {
        const size_t mirrored = row / kSteps * kSteps + kSteps - 1 - row % kSteps;
        for (size_t i = 0; i < width; ++i) y[mirrored * width + i] = x[row * width + i];
      }
      return y;
    };
    const auto run = [&](const RecurrentLayer& layer, const std::vector<double>& x) {
      return layer.forward(Tensor::from({2, kSteps, kFeatures}, x, test_backend()), context)
          .to_vector<double>();
    };
    const std::vector<double> expected = run(forward, values),
                              found = run(backward, reversed(values, kFeatures));
    EXPECT_EQ(sequence ? reversed(found, kUnits) : found, expected);
    EXPECT_NE(run(backward, values), expected);
  }
}

// The inputs' product alone runs in 16 bits.
TEST(Recurrent, StatesAndGradientsUnderAutocastAreFp32AndNearThoseWithoutIt) {
  for (const RecurrentCell cell : {RecurrentCell::kTanh, RecurrentCell::kLstm, RecurrentCell::kGru}) {
    RecurrentOptions options;
    options.cell = cell;
    ParameterStore store;
    const RecurrentLayer layer(6, 5, options, ModuleBuilder(store));
    store.allocate(DType::kF32, test_backend(), 4);
    const Tensor x =
        Tensor::from({3, 7, 6}, uniform_values(3 * 7 * 6, 2), test_backend()).converted(DType::kF32);
    // The last states, then the gradients of their sum.
    const auto run = [&](DType compute) {
      const AutocastScope scope(compute);
      ForwardContext context = forward_context(store, true);
      const Tensor y = layer.forward(x, context);
      EXPECT_EQ(y.dtype(), DType::kF32);
      std::vector<std::vector<double>> results(1 + store.parameters().size());
      results[0] = y.to_vector<double>();
      backward(y, y.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
        EXPECT_EQ(gradient.dtype(), DType::kF32);
        results[1 + static_cast<size_t>(leaf.index)] = gradient.to_vector<double>();
      });
      return results;
    };
    const auto exact = run(DType::kF32);
    for (const DType compute : {DType::kBF16, DType::kF16}) {
      const auto found = run(compute);
      const double unit = compute == DType::kBF16 ? 1.0 / 256 : 1.0 / 2048;
      bool rounded = false;
      for (size_t i = 0; i < exact.size(); ++i) {
        ASSERT_EQ(found[i].size(), exact[i].size());
        for (size_t j = 0; j < exact[i].size(); ++j) {
          EXPECT_NEAR(found[i][j], exact[i][j], 8.0 * unit * std::max(1.0, std::abs(exact[i][j])));
          rounded = rounded || found[i][j] != exact[i][j];
        }
      }
      EXPECT_TRUE(rounded) << "autocast changed nothing";
    }
  }
}

}  // namespace
}  // namespace lockstep
