// By how much a quota has made a worker late out of a wait: where what it waited for had come while it could
// not look.
#include "lockstep/comm/quota_delay.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockstep {
namespace {

class QuotaDelays : public ::testing::Test {
 protected:
  // A wait in which the worker looks after these milliseconds, the last time with success; throttled: how
  // many of them it was, when it looks. Returns the delay in milliseconds.
  double wait(const std::vector<int>& looks, double throttled) {
    QuotaDelay::Clock::time_point now{};
    delay_.begin(now);
    throttled_ += throttled * 1e-3;
    for (const int milliseconds : looks) delay_.look(now += std::chrono::milliseconds(milliseconds));
    delay_.end(now);
    return 1e3 * delay_.take();
  }

  static constexpr double kRounding = 1e-9;  // of differences of counters

  double throttled_ = 7.0;  // of before
  QuotaDelay delay_{[this] { return throttled_; }};
};

TEST_F(QuotaDelays, IsWhatTheQuotaTookJustBeforeTheEnd) {
  EXPECT_NEAR(wait({1, 80}, 80), 80.0, kRounding);
  EXPECT_NEAR(wait({1, 80, 2, 3}, 80), 80.0, kRounding) << "messages that have come need a few looks";
  EXPECT_NEAR(wait({1, 80}, 30), 30.0, kRounding);
  EXPECT_NEAR(wait({80, 4, 4}, 500), 80.0, kRounding)
      << "summed over cores, a quota takes more than there is time";
}

TEST_F(QuotaDelays, IsNothingWhereSomethingElseTookTheCoreOrTheOthersCameLater) {
  EXPECT_EQ(wait({1, 80}, 0), 0.0) << "another process had the core";
  EXPECT_EQ(wait({80, 4, 4, 4, 4, 80, 81}, 0), 0.0);
  std::vector<int> late = {80};
  late.insert(late.end(), 40, 4);
  EXPECT_EQ(wait(late, 80), 0.0) << "nobody was kept waiting";
  EXPECT_EQ(wait({1, 2, 3, 4}, 4), 0.0);
}

}  // namespace
}  // namespace lockstep
