// The guard against outliers: what it skips, what it learns from, and going on from a checkpoint.
#include "lockstep/train/outlier_guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace lockstep {
namespace {

GuardSettings guarded(double loss_z, double norm_z) {
  GuardSettings settings;
  settings.loss_z = loss_z;
  settings.norm_z = norm_z;
  settings.window = 16;
  settings.most_skips = 4;
  return settings;
}

// Around 2 with deviation 0.1.
class Stream {
 public:
  double next() { return 2.0 + 0.1 * (static_cast<double>(bits_() % 2001) / 1000.0 - 1.0) * std::sqrt(3.0); }

 private:
  std::mt19937 bits_{5};
};

TEST(OutlierGuard, IsOffByDefault) {
  OutlierGuard guard{GuardSettings{}};
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(guard.skip(i == 500 ? 1e30 : 1.0, i == 600 ? 1e30 : 1.0));
  EXPECT_FALSE(guard.diverged());
}

TEST(OutlierGuard, SkipsASpikeOfEitherValueAndNothingElse) {
  OutlierGuard guard(guarded(6, 6));
  Stream stream;
  for (int i = 0; i < 400; ++i) {
    const bool loss_spike = i == 100, norm_spike = i == 200;
    const bool skipped = guard.skip(loss_spike ? 10.0 : stream.next(), norm_spike ? 10.0 : stream.next());
    EXPECT_EQ(skipped, loss_spike || norm_spike) << i;
  }
  EXPECT_EQ(guard.skipped(), 2);
}

TEST(OutlierGuard, NeverSkipsBeforeItHasSeenAWindow) {
  OutlierGuard guard(guarded(6, 6));
  for (int i = 0; i < 16; ++i) EXPECT_FALSE(guard.skip(i == 15 ? 1000.0 : 1.0 + 0.01 * i, 1.0));
}

TEST(OutlierGuard, ValuesThatAreNotFiniteLeaveNoTrace) {
  OutlierGuard with(guarded(6, 6)), without(guarded(6, 6));
  Stream stream;
  for (int i = 0; i < 100; ++i) {
    const double loss = stream.next(), norm = stream.next();
    with.skip(loss, norm);
    without.skip(loss, norm);
    with.skip(std::nan(""), std::numeric_limits<double>::infinity());
  }
  auto a = with.state(), b = without.state();
  for (const char* statistic :
       {"loss_mean", "loss_variance", "loss_count", "norm_mean", "norm_variance", "norm_count"}) {
    EXPECT_EQ(a[statistic], b[statistic]) << statistic;
  }
}

TEST(OutlierGuard, NearlyConstantValuesAreNoOutliers) {
  OutlierGuard guard(guarded(6, 6));
  for (int i = 0; i < 200; ++i) EXPECT_FALSE(guard.skip(1.0 + 1e-9 * (i % 7), 3.0));
}

TEST(OutlierGuard, LearnsALastingChange) {
  GuardSettings settings = guarded(6, 6);
  settings.most_skips = 1000;
  OutlierGuard guard(settings);
  Stream stream;
  int skipped = 0;
  for (int i = 0; i < 400; ++i) skipped += guard.skip(stream.next() + (i >= 100 ? 3.0 : 0.0), 1.0) ? 1 : 0;
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, 60);
  EXPECT_EQ(guard.skips_in_a_row(), 0);
}

TEST(OutlierGuard, ManyOutliersInARowAreDivergence) {
  OutlierGuard guard(guarded(6, 0));
  Stream stream;
  for (int i = 0; i < 100; ++i) guard.skip(stream.next(), 1.0);
  double loss = 10.0;
  for (int i = 0; i < 4; ++i, loss *= 100.0) {
    EXPECT_FALSE(guard.diverged());
    EXPECT_TRUE(guard.skip(loss, 1.0));
  }
  EXPECT_TRUE(guard.diverged());
}

TEST(OutlierGuard, GoesOnFromItsState) {
  for (int split = 0; split < 60; split += 7) {
    OutlierGuard straight(guarded(3, 4)), first(guarded(3, 4)), second(guarded(3, 4));
    Stream stream;
    for (int i = 0; i < 60; ++i) {
      const double loss = stream.next() + (i % 19 == 18 ? 5.0 : 0.0), norm = stream.next();
      const bool expected = straight.skip(loss, norm);
      EXPECT_EQ((i < split ? first : second).skip(loss, norm), expected);
      if (i + 1 == split) second.set_state(first.state());
    }
    EXPECT_EQ(second.state(), straight.state());
  }
}

}  // namespace
}  // namespace lockstep
