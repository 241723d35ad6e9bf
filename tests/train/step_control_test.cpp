// The device's verdicts against the host's own arithmetic, step after step.
#include "lockstep/train/step_control.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "device.h"

namespace lockstep {
namespace {

LossScaler dynamic_scaler() {
  LossScaleSettings settings;
  settings.mode = LossScaling::kDynamic;
  settings.initial = 8.0;
  settings.interval = 3;
  settings.minimum = 2.0;
  return LossScaler(settings);
}

// A summed gradient whose squares sum up to that, in blocks.
Tensor square_sums(const std::vector<double>& blocks) {
  return Tensor::from(Shape{static_cast<int64_t>(blocks.size())}, blocks, test_backend());
}
// Of losses and of weights.
Tensor sums(double loss, double count) {
  return Tensor::from(Shape{2}, std::vector<double>{loss, count}, test_backend());
}

TEST(StepControl, JudgesAsTheHostWouldAndGoesOnFromThere) {
  LossScaler scaler = dynamic_scaler();
  constexpr double kMaxNorm = 0.5;
  StepControl control(test_backend(), DType::kF32, scaler, kMaxNorm, 3, 2);
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const std::vector<std::pair<double, float>> steps = {
      {9.0, 4.0f}, {9e4, 8.0f},      {1.0, 2.0f},  {infinity, 2.0f}, {1.0, std::nanf("")}, {nan, 1.0f},
      {4.0, 1.0f}, {4.0, HUGE_VALF}, {16.0, 1.0f}, {0.0, 0.0f},      {1e-3, 5.0f},         {2.0, 1.0f},
  };
  int64_t updates = 7, step = 20;
  control.set(scaler, updates, step);
  std::vector<StepState> expected;
  // The host reads each report two steps later.
  const auto read = [&](int64_t number) {
    const StepState &want = expected[static_cast<size_t>(number - 21)], found = control.read(number);
    EXPECT_EQ(found.used_scale, want.used_scale) << number;
    EXPECT_EQ(found.gate, want.gate) << number;
    EXPECT_EQ(found.updates, want.updates) << number;
    EXPECT_EQ(found.loss_scale.scale, want.loss_scale.scale) << number;
    EXPECT_EQ(found.random_step, want.random_step) << number;
    if (want.gate == 0.0) return;
    EXPECT_DOUBLE_EQ(found.loss, want.loss) << number;
    EXPECT_DOUBLE_EQ(found.norm, want.norm) << number;
    EXPECT_DOUBLE_EQ(found.factor, want.factor) << number;
  };
  for (const auto& [squares, loss] : steps) {
    const double count = step % 2 == 0 ? 4.0 : 3.0, scale = scaler.scale();
    control.arrange(updates, 0, [](int64_t update, std::span<double> row) {
      for (size_t i = 0; i < row.size(); ++i)
        row[i] = 100.0 * static_cast<double>(update) + static_cast<double>(i);
    });
    EXPECT_EQ(control.cotangent({2}).to_vector<double>(), std::vector<double>(2, scale));
    const Tensor summed = sums(static_cast<double>(loss), count);
    control.judge(square_sums({0.25 * squares, 0.75 * squares}), summed.data_as<double>());
    StepState want;
    want.used_scale = scale;
    want.loss = static_cast<double>(loss) / count;
    want.norm = std::sqrt(squares) / (count * scale);
    const bool finite = std::isfinite(squares) && std::isfinite(loss);
    want.gate = finite ? 1.0 : 0.0;
    want.factor = 1.0 / (count * scale) * (want.norm > kMaxNorm - 1e-6 ? kMaxNorm / (want.norm + 1e-6) : 1.0);
    std::vector<double> found(3);
    test_backend().copy_to_host(found.data(), control.row(), 3 * sizeof(double));
    const double first = 100.0 * static_cast<double>(updates);
    EXPECT_EQ(found, (std::vector<double>{first, first + 1, first + 2})) << step;
    if (finite) ++updates;
    scaler.update(finite);
    want.updates = static_cast<double>(updates);
    want.loss_scale = scaler.counters();
    want.random_step = static_cast<uint32_t>(++step);
    expected.push_back(want);
    control.post(step);
    if (expected.size() > 2) read(step - 2);
  }
  for (int64_t number = step - 1; number <= step; ++number) read(number);
  EXPECT_GT(scaler.skipped(), 3);
}

TEST(StepControl, AStepInWhichNothingCountsChangesNothingButTheDraws) {
  LossScaler scaler = dynamic_scaler();
  StepControl control(test_backend(), DType::kF32, scaler, 0.0, 0, 0);
  control.set(scaler, 5, 9);
  const Tensor summed = sums(0.0, 0.0);
  control.judge(square_sums({0.0}), summed.data_as<double>());
  control.post(10);
  const StepState state = control.read(10);
  EXPECT_EQ(state.gate, 0.0);
  EXPECT_EQ(state.loss, 0.0);
  EXPECT_EQ(state.updates, 5.0);
  EXPECT_EQ(state.random_step, 10u);
  EXPECT_EQ(state.loss_scale.scale, 8.0);
  EXPECT_EQ(state.loss_scale.skipped, 0.0);
  EXPECT_EQ(state.loss_scale.finite_steps, 0.0);
}

TEST(StepControl, RowsOfManyUpdatesComeInTurnAndAnewWhenTheyAreForgotten) {
  const LossScaler scaler{LossScaleSettings{}};
  StepControl control(test_backend(), DType::kF32, scaler, 0.0, 1, 4);
  control.set(scaler, 0, 0);
  double offset = 0.0;
  for (int64_t update = 0; update < 300; ++update) {
    if (update == 150) {
      offset = 1000.0;
      control.forget_rows(update);
    }
    control.arrange(update < 4 ? 0 : update - 4, update < 4 ? update : 4,
                    [&](int64_t u, std::span<double> row) { row[0] = offset + static_cast<double>(u); });
    const Tensor summed = sums(1.0, 1.0);
    control.judge(square_sums({1.0}), summed.data_as<double>());
    double found = 0.0;
    test_backend().copy_to_host(&found, control.row(), sizeof found);
    ASSERT_EQ(found, offset + static_cast<double>(update));
  }
}

}  // namespace
}  // namespace lockstep
