// Both parts of a split are found row by row, and are a fair sample.
#include "lockstep/data/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "data/rejection.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

std::vector<int64_t> validation_of(const Split& split) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < split.validation_size(); ++i) rows.push_back(split.validation_row(i));
  return rows;
}

TEST(Split, IsDisjointCompleteAndInTheOrderOfTheFile) {
  for (int64_t n = 2; n <= 60; ++n) {
    for (int64_t held_out = 1; held_out < n; ++held_out) {
      const Split split(n, static_cast<double>(held_out) / static_cast<double>(n), 17);
      ASSERT_EQ(split.validation_size(), held_out);
      ASSERT_EQ(split.train_size(), n - held_out);
      std::vector<int64_t> rows = validation_of(split);
      ASSERT_TRUE(std::is_sorted(rows.begin(), rows.end()));
      for (int64_t i = 0; i < split.train_size(); ++i) {
        rows.push_back(split.train_row(i));
        ASSERT_TRUE(i == 0 || split.train_row(i - 1) < split.train_row(i));
      }
      std::sort(rows.begin(), rows.end());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(rows[static_cast<size_t>(i)], i) << n << ", " << held_out;
    }
  }
}

TEST(Split, NeedsNoArrayOfVeryManyRows) {
  constexpr int64_t kRows = (int64_t{1} << 40) + 3;
  for (const double fraction : {1e-6, 0.1, 0.5, 0.9}) {
    const Split split(kRows, fraction, 4);
    ASSERT_EQ(split.train_size() + split.validation_size(), kRows);
    for (const int64_t size : {split.train_size(), split.validation_size()}) {
      const bool train = size == split.train_size();
      int64_t before = -1;
      for (int64_t k = 0; k < 1000; ++k) {
        const int64_t i = k == 999 ? size - 1 : k * (size / 1000);
        const int64_t row = train ? split.train_row(i) : split.validation_row(i);
        ASSERT_TRUE(row > before && row < kRows);
        before = row;
      }
    }
  }
}

TEST(Split, TakesEveryRowEquallyOften) {
  for (const int64_t held_out : {6, 20, 30, 50}) {
    constexpr int64_t kRows = 60, kSeeds = 20000;
    std::vector<int64_t> counts(kRows);
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      for (int64_t row : validation_of(Split(kRows, static_cast<double>(held_out) / kRows, seed)))
        ++counts[static_cast<size_t>(row)];
    }
    const double share = static_cast<double>(held_out) / kRows, expected = kSeeds * share;
    for (int64_t count : counts) {
      EXPECT_LT(std::abs(static_cast<double>(count) - expected) / std::sqrt(expected * (1.0 - share)), 4.5)
          << held_out;
    }
  }
}

TEST(Split, RoundsTheNumberOfRows) {
  for (const int64_t n : {2, 10, 1797}) EXPECT_EQ(Split(n, 0.3, 17).validation_size(), (3 * n + 5) / 10);
}

TEST(Split, DependsOnTheSeed) {
  EXPECT_EQ(validation_of(Split(100, 0.2, 1)), validation_of(Split(100, 0.2, 1)));
  EXPECT_NE(validation_of(Split(100, 0.2, 1)), validation_of(Split(100, 0.2, 2)));
}

TEST(Split, OfNothingGivesAllToTraining) {
  const Split split(5, 0.0, 1);
  EXPECT_EQ(split.validation_size(), 0);
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(split.train_row(i), i);
}

TEST(Split, RejectsFractionsThatMakeNoSplit) {
  expect_rejection(ErrorKind::kUsage, {"[0, 1)", "1"}, [] { Split(10, 1.0, 1); });
  expect_rejection(ErrorKind::kUsage, {"[0, 1)", "-0.1"}, [] { Split(10, -0.1, 1); });
  expect_rejection(ErrorKind::kUsage, {"[0, 1)", "nan"}, [] { Split(10, std::nan(""), 1); });
  expect_rejection(ErrorKind::kUsage, {"0.01", "10"}, [] { Split(10, 0.01, 1); });
  expect_rejection(ErrorKind::kUsage, {"0.99", "10"}, [] { Split(10, 0.99, 1); });
}

}  // namespace
}  // namespace lockstep
