// Loss scales: growth, backoff, floor, skips in a row, and going on from a checkpoint.
#include "lockstep/optim/loss_scaler.h"

#include <gtest/gtest.h>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

LossScaleSettings settings_from(const std::string& toml, DType compute = DType::kF16) {
  Configuration configuration = Configuration::parse("[precision]\n" + toml + "\n", "test.toml", {});
  Section section = configuration.section("precision");
  const LossScaleSettings settings = read_loss_scale(section, compute);
  configuration.reject_unknown();
  return settings;
}

TEST(LossScaler, IsDynamicForFp16AndOffForTheOthersUnlessAsked) {
  EXPECT_EQ(settings_from("", DType::kF16).mode, LossScaling::kDynamic);
  for (const DType compute : {DType::kF32, DType::kF64, DType::kBF16}) {
    EXPECT_EQ(settings_from("", compute).mode, LossScaling::kOff);
    EXPECT_EQ(settings_from("loss_scale = 'dynamic'", compute).mode, LossScaling::kDynamic);
  }
  EXPECT_EQ(settings_from("loss_scale = 'off'").mode, LossScaling::kOff);
  EXPECT_EQ(LossScaler(settings_from("loss_scale = 'off'")).scale(), 1.0);
  EXPECT_FALSE(LossScaler(settings_from("loss_scale = 'off'")).skips());
  EXPECT_EQ(LossScaler(settings_from("")).scale(), 65536.0);
}

TEST(LossScaler, GrowsAfterAnIntervalOfFiniteStepsOneAfterTheOther) {
  LossScaler scaler(settings_from("initial_scale = 8\ngrowth_factor = 4\ngrowth_interval = 3"));
  for (const double scale : {8.0, 8.0, 32.0, 32.0, 32.0, 128.0}) {
    scaler.update(true);
    EXPECT_EQ(scaler.scale(), scale);
  }
  scaler.update(true);
  scaler.update(true);
  scaler.update(false);  // the interval starts again
  EXPECT_EQ(scaler.scale(), 64.0);
  scaler.update(true);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 64.0);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 256.0);
}

TEST(LossScaler, BacksOffToItsFloorAndCountsTheSkipsInARow) {
  LossScaler scaler(
      settings_from("initial_scale = 8\nbackoff_factor = 0.25\nminimum_scale = 1\nstop_after_skips = 3"));
  scaler.update(false);
  EXPECT_EQ(scaler.scale(), 2.0);
  scaler.update(false);
  EXPECT_EQ(scaler.scale(), 1.0);
  EXPECT_FALSE(scaler.diverged());
  scaler.update(true);
  EXPECT_EQ(scaler.skips_in_a_row(), 0);
  for (int i = 0; i < 2; ++i) scaler.update(false);
  EXPECT_FALSE(scaler.diverged());
  scaler.update(false);
  EXPECT_TRUE(scaler.diverged());
  EXPECT_EQ(scaler.scale(), 1.0);
  EXPECT_EQ(scaler.skipped(), 5);
}

TEST(LossScaler, NeverGrowsBeyondWhatFp32Holds) {
  LossScaler scaler(settings_from("initial_scale = 1048576\ngrowth_interval = 1\ngrowth_factor = 1024"));
  for (int i = 0; i < 100; ++i) scaler.update(true);
  EXPECT_LE(scaler.scale(), 0x1p64);
  EXPECT_EQ(scaler.scale(), 0x1p60);
}

TEST(LossScaler, AStaticScaleStaysAndSkips) {
  LossScaler scaler(settings_from("loss_scale = 'static'\ninitial_scale = 128"));
  EXPECT_TRUE(scaler.skips());
  for (int i = 0; i < 5000; ++i) scaler.update(i % 2 == 0);
  EXPECT_EQ(scaler.scale(), 128.0);
  EXPECT_EQ(scaler.skipped(), 2500);
}

TEST(LossScaler, GoesOnFromItsStateInTheMiddleOfAnInterval) {
  const LossScaleSettings settings = settings_from("initial_scale = 16\ngrowth_interval = 5");
  for (int split = 0; split < 40; ++split) {
    LossScaler straight(settings), first(settings), second(settings);
    for (int step = 0; step < 40; ++step) {
      const bool finite = step % 13 != 7;
      straight.update(finite);
      (step < split ? first : second).update(finite);
      if (step + 1 == split) second.set_state(first.state());
    }
    EXPECT_EQ(second.state(), straight.state()) << split;
  }
}

TEST(LossScaler, ARunThatBecomesDynamicStartsAtItsOwnScale) {
  const LossScaleSettings settings = settings_from("initial_scale = 512\nminimum_scale = 4");
  for (const char* before : {"loss_scale = 'off'", "loss_scale = 'static'\ninitial_scale = 2"}) {
    LossScaler scaler(settings);
    scaler.set_state(LossScaler(settings_from(before)).state());
    EXPECT_EQ(scaler.scale(), 512.0) << before;
  }
  LossScaler low(settings_from("initial_scale = 2")), raised(settings);
  raised.set_state(low.state());
  EXPECT_EQ(raised.scale(), 4.0) << "not below the floor";
}

TEST(LossScaler, RefusesScalesThatWouldRound) {
  for (const char* toml :
       {"initial_scale = 1000", "growth_factor = 1.5", "backoff_factor = 0.3", "backoff_factor = 1",
        "minimum_scale = 3", "minimum_scale = 131072", "growth_interval = 0", "initial_scale = -2",
        "stop_after_skips = 0", "loss_scale = 'often'", "initial_scale = 1e39"}) {
    try {
      settings_from(toml);
      ADD_FAILURE() << toml;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << toml;
      EXPECT_NE(std::string(error.what()).find("precision."), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace lockstep
