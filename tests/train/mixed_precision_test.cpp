// Why fp16 needs loss scaling: gradients below its smallest number are lost without, and train the network
// with it.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/optim/clip.h"
#include "lockstep/optim/loss_scaler.h"

namespace lockstep {
namespace {

// A loss with a small weight, as one term among several has: y = sin of the inputs, two layers, gradient
// descent whose rate makes up for the weight. Returns the first and the last loss, weight left out.
std::pair<double, double> train_small_gradients(DType compute, const LossScaleSettings& settings) {
  constexpr int64_t kSamples = 64, kInputs = 4, kHidden = 32;
  constexpr double kWeight = 1e-8, kRate = 0.05;
  const auto wave = [](int64_t n, double frequency, double amplitude) {
    std::vector<float> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(amplitude * std::sin(frequency * static_cast<double>(i + 1)));
    }
    return values;
  };
  Backend& backend = test_backend();
  const Tensor x = Tensor::from({kSamples, kInputs}, wave(kSamples * kInputs, 1.7, 1.0), backend);
  const Tensor y = Tensor::from({kSamples, 1}, wave(kSamples, 6.8, 1.0), backend);
  std::vector<Tensor> parameters = {
      variable(Tensor::from({kInputs, kHidden}, wave(kInputs * kHidden, 2.3, 0.7), backend), 0),
      variable(Tensor::from({kHidden, 1}, wave(kHidden, 0.9, 0.3), backend), 1)};
  LossScaler scaler(settings);
  double first = 0.0, last = 0.0;
  for (int step = 0; step < 300; ++step) {
    std::vector<Tensor> gradients(2);
    {
      const AutocastScope autocast(compute);
      const Tensor losses = mean_squared_error(matmul(relu(matmul(x, parameters[0])), parameters[1]), y);
      last = 0.0;
      for (const double loss : losses.to_vector<double>()) last += loss / kSamples;
      if (step == 0) first = last;
      backward(scale(losses, kWeight), losses.full_like(scaler.scale()),
               [&](const Leaf& leaf, const Tensor& gradient) {
                 gradients[static_cast<size_t>(leaf.index)] = gradient;
               });
    }
    const double unscale = 1.0 / (kSamples * scaler.scale());
    bool finite = true;
    for (const Tensor& gradient : gradients) {
      EXPECT_EQ(gradient.dtype(), DType::kF32);
      finite = finite && std::isfinite(global_norm(gradient, gradient.elements(), unscale));
    }
    for (size_t i = 0; finite && i < 2; ++i) {
      parameters[i] =
          variable(parameters[i].detach() - gradients[i] * (unscale * kRate / kWeight), static_cast<int>(i));
    }
    scaler.update(finite);
  }
  return {first, last};
}

LossScaleSettings dynamic(double initial) {
  LossScaleSettings settings;
  settings.mode = LossScaling::kDynamic;
  settings.initial = initial;
  settings.interval = 20;
  return settings;
}

TEST(MixedPrecision, SmallGradientsVanishInFp16WithoutLossScalingAndTrainWithIt) {
  const auto [fp32_first, fp32_last] = train_small_gradients(DType::kF32, {});
  EXPECT_LT(fp32_last, 0.2 * fp32_first);
  const auto [lost_first, lost_last] = train_small_gradients(DType::kF16, {});
  EXPECT_EQ(lost_last, lost_first) << "every gradient is rounded to zero";
  const auto [scaled_first, scaled_last] = train_small_gradients(DType::kF16, dynamic(65536.0));
  EXPECT_LT(scaled_last, 0.2 * scaled_first);
  EXPECT_NEAR(scaled_last, fp32_last, 0.1 * fp32_first);
  // bf16 has the range of fp32 and needs no scaling.
  const auto [wide_first, wide_last] = train_small_gradients(DType::kBF16, {});
  EXPECT_LT(wide_last, 0.3 * wide_first);
}

TEST(MixedPrecision, ALossScaleThatStartsTooLargeFindsItsWay) {
  const auto [first, last] = train_small_gradients(DType::kF16, dynamic(0x1p60));
  EXPECT_LT(last, 0.2 * first);
}

}  // namespace
}  // namespace lockstep
