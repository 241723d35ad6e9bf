// Who is slow is said once, by rank, host and factor, whatever the workers' shares of the work.
#include "lockstep/train/straggler_watch.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

std::string host_of(int rank) {
  return "node" + std::to_string(rank);
}

// Steps of these seconds until something is said.
std::optional<std::string> watch(StragglerWatch& stragglers, const std::vector<double>& seconds,
                                 int64_t steps) {
  for (int64_t step = 1; step <= steps; ++step) {
    if (const auto said = stragglers.add(step, seconds)) return said;
  }
  return std::nullopt;
}

TEST(StragglerWatch, SaysOnceWhoIsSlowAndOnceThatItIsNoLonger) {
  StragglerWatch stragglers({1, 1, 1}, host_of);
  EXPECT_EQ(watch(stragglers, {0.1, 0.11, 0.12}, 510), std::nullopt);  // 30 windows of 17 steps
  const auto slow = watch(stragglers, {0.1, 0.125, 1.0}, 500);
  ASSERT_TRUE(slow);
  EXPECT_EQ(
      slow->substr(slow->find(':')),
      ": rank 2 on host node2 is slow: a micro-batch takes it 10 times as long as others, 1 s instead of "
      "0.1 s");
  EXPECT_EQ(watch(stragglers, {0.1, 0.125, 1.0}, 500), std::nullopt);
  EXPECT_EQ(watch(stragglers, {0.1, 0.1, 0.18}, 500), std::nullopt) << "between slow and well";
  const auto well = watch(stragglers, {0.1, 0.1, 0.1}, 500);
  ASSERT_TRUE(well);
  EXPECT_NE(well->find("rank 2 on host node2 keeps up again"), std::string::npos) << *well;
  EXPECT_EQ(watch(stragglers, {0.1, 0.1, 0.1}, 500), std::nullopt);
}

TEST(StragglerWatch, TheQuotaThatMakesOneSlowIsNamed) {
  StragglerWatch throttled({1, 1}, host_of), little({1, 1}, host_of), other({1, 1}, host_of);
  const auto said = [](StragglerWatch& stragglers, const std::vector<double>& kept) {
    for (int64_t step = 1; step <= 3; ++step) {
      if (const auto text = stragglers.add(step, std::vector<double>{0.1, 1.0}, kept)) return *text;
    }
    return std::string();
  };
  EXPECT_NE(said(throttled, {0.0, 0.75})
                .find("1 s instead of 0.1 s; its control group's quota of processor time "
                      "has kept it from running for 1.5 s"),
            std::string::npos);
  for (const std::string& text : {said(little, {0.0, 0.05}), said(other, {5.0, 0.0})}) {
    EXPECT_NE(text.find("rank 1 on host node1 is slow: "), std::string::npos) << text;
    EXPECT_TRUE(text.ends_with("1 s instead of 0.1 s")) << text;
  }
}

TEST(StragglerWatch, MoreWorkIsNotSlowness) {
  StragglerWatch stragglers({3, 1}, host_of);
  EXPECT_EQ(watch(stragglers, {0.3, 0.1}, 500), std::nullopt);
  EXPECT_TRUE(watch(stragglers, {0.3, 0.3}, 500));
}

TEST(StragglerWatch, AShortWindowSaysNothing) {
  StragglerWatch stragglers({1, 1}, host_of);
  EXPECT_EQ(watch(stragglers, {1e-5, 1e-3}, 1000), std::nullopt) << "a second in all";
}

TEST(StragglerWatch, TheSlowestOfAnIntervalIsGivenUnlessNothingIsKnown) {
  StragglerWatch two({1, 2}, host_of), alone({4}, host_of);
  EXPECT_FALSE(two.take());
  two.add(1, std::vector<double>{0.5, 0.5});
  const auto slowest = two.take();
  ASSERT_TRUE(slowest);
  EXPECT_EQ(slowest->rank, 0);
  EXPECT_EQ(slowest->factor, 2.0);
  EXPECT_FALSE(two.take());
  EXPECT_EQ(watch(two, {0.0, 0.0}, 100), std::nullopt);
  EXPECT_FALSE(two.take());
  EXPECT_EQ(watch(alone, {1.0}, 100), std::nullopt);
  EXPECT_FALSE(alone.take());
}

}  // namespace
}  // namespace lockstep
