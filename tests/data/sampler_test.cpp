// The order of samples is a permutation that depends on seed and epoch alone and can be entered anywhere.
#include "data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "data/rejection.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

std::vector<int64_t> ascending(int64_t n) {
  std::vector<int64_t> rows(static_cast<size_t>(n));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

TEST(Permutation, HoldsEveryRowOnce) {
  for (const int64_t n : {1, 2, 3, 4, 7, 64, 1797, 10001}) {
    std::vector<int64_t> rows = Sampler::permutation(5, 2, n);
    std::sort(rows.begin(), rows.end());
    EXPECT_EQ(rows, ascending(n)) << n;
  }
}

TEST(Permutation, OfNothingIsEmpty) {
  EXPECT_TRUE(Sampler::permutation(1, 0, 0).empty());
}

// Pinned by a separate program of the definition (Philox checked against its authors' known answers): runs
// that were begun with an older version must go on in the same order.
TEST(Permutation, IsTheOneThatTheDefinitionGives) {
  EXPECT_EQ(Sampler::permutation(1, 0, 12), (std::vector<int64_t>{2, 5, 6, 3, 0, 9, 11, 1, 8, 7, 4, 10}));
  EXPECT_EQ(Sampler::permutation(1, (int64_t{1} << 33) + 1, 12),
            (std::vector<int64_t>{2, 9, 5, 4, 10, 1, 11, 3, 6, 8, 0, 7}));
  EXPECT_EQ(Sampler::permutation(7, 3, 5), (std::vector<int64_t>{2, 3, 0, 1, 4}));
}

TEST(Permutation, DiffersByEpochAndBySeed) {
  std::set<std::vector<int64_t>> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (int64_t epoch = 0; epoch < 20; ++epoch) seen.insert(Sampler::permutation(seed, epoch, 100));
  }
  EXPECT_EQ(seen.size(), 400u);
}

TEST(Permutation, PutsEveryRowEverywhereEquallyOften) {
  constexpr int64_t kRows = 6, kEpochs = 6000;
  std::vector<int64_t> counts(kRows * kRows);
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
    const std::vector<int64_t> rows = Sampler::permutation(11, epoch, kRows);
    for (int64_t i = 0; i < kRows; ++i)
      ++counts[static_cast<size_t>(i * kRows + rows[static_cast<size_t>(i)])];
    orders.insert(rows);
  }
  // Chi-square with (6-1)^2 = 25 degrees of freedom: above 52.6 once in a thousand.
  double chi_square = 0.0;
  for (int64_t count : counts) {
    const double difference = static_cast<double>(count) - kEpochs / kRows;
    chi_square += difference * difference / (kEpochs / kRows);
  }
  EXPECT_LT(chi_square, 52.6);
  EXPECT_EQ(orders.size(), 720u);
}

TEST(Sampler, ShowsEverySampleOnceAnEpoch) {
  Sampler sampler({.samples = 100, .global_batch = 10, .seed = 3});
  ASSERT_EQ(sampler.steps_per_epoch(), 10);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> rows;
    for (int64_t position = 0; position < 10; ++position) {
      const GlobalBatch batch = sampler.batch(epoch * 10 + position);
      EXPECT_EQ(batch.epoch, epoch);
      EXPECT_EQ(batch.position, position);
      EXPECT_EQ(batch.valid, 10);
      rows.insert(rows.end(), batch.samples.begin(), batch.samples.end());
    }
    EXPECT_EQ(rows, Sampler::permutation(3, epoch, 100));
  }
}

TEST(Sampler, SeekingEqualsReplay) {
  for (const LastBatch last : {LastBatch::kDrop, LastBatch::kPad}) {
    const SamplerOptions options{.samples = 37, .global_batch = 5, .seed = 9, .last_batch = last};
    Sampler replay(options);
    for (int64_t step = 0; step < 40; ++step) {
      const GlobalBatch expected = replay.batch(step);
      Sampler fresh(options);
      EXPECT_EQ(fresh.batch(step).samples, expected.samples) << step;
    }
    // Backwards as well, over epochs.
    const GlobalBatch late = replay.batch(39);
    replay.batch(2);
    EXPECT_EQ(replay.batch(39).samples, late.samples);
  }
}

TEST(Sampler, DropLeavesOutTheIncompleteBatch) {
  Sampler sampler({.samples = 23, .global_batch = 5, .seed = 1});
  EXPECT_EQ(sampler.steps_per_epoch(), 4);
  EXPECT_EQ(sampler.batch(3).valid, 5);
  EXPECT_EQ(sampler.batch(4).epoch, 1);
}

TEST(Sampler, PadFillsUpFromTheStartOfTheEpoch) {
  Sampler sampler({.samples = 23, .global_batch = 5, .seed = 1, .last_batch = LastBatch::kPad});
  ASSERT_EQ(sampler.steps_per_epoch(), 5);
  const std::vector<int64_t> order = Sampler::permutation(1, 1, 23);
  const GlobalBatch last = sampler.batch(9);
  EXPECT_EQ(last.valid, 3);
  EXPECT_EQ(last.samples, (std::vector<int64_t>{order[20], order[21], order[22], order[0], order[1]}));
  EXPECT_EQ(sampler.batch(8).valid, 5);
}

TEST(Sampler, PadAddsNoBatchWhenBatchesFitExactly) {
  Sampler sampler({.samples = 20, .global_batch = 5, .last_batch = LastBatch::kPad});
  EXPECT_EQ(sampler.steps_per_epoch(), 4);
  EXPECT_EQ(sampler.batch(3).valid, 5);
}

TEST(Sampler, PadRepeatsADataSetSmallerThanTheBatch) {
  Sampler sampler({.samples = 3, .global_batch = 8, .shuffle = false, .last_batch = LastBatch::kPad});
  EXPECT_EQ(sampler.steps_per_epoch(), 1);
  const GlobalBatch batch = sampler.batch(6);
  EXPECT_EQ(batch.epoch, 6);
  EXPECT_EQ(batch.valid, 3);
  EXPECT_EQ(batch.samples, (std::vector<int64_t>{0, 1, 2, 0, 1, 2, 0, 1}));
}

TEST(Sampler, WithoutShuffleKeepsTheOrderOfTheFile) {
  Sampler sampler(
      {.samples = 7, .global_batch = 3, .seed = 4, .shuffle = false, .last_batch = LastBatch::kPad});
  EXPECT_EQ(sampler.batch(0).samples, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(sampler.batch(4).samples, (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(sampler.batch(5).samples, (std::vector<int64_t>{6, 0, 1}));
}

TEST(Sampler, RejectsEpochsWithoutABatch) {
  expect_rejection(ErrorKind::kUsage, {"8", "7"}, [] { Sampler({.samples = 7, .global_batch = 8}); });
  expect_rejection(ErrorKind::kUsage, {"no samples"},
                   [] { Sampler({.samples = 0, .global_batch = 8, .last_batch = LastBatch::kPad}); });
  expect_rejection(ErrorKind::kUsage, {"global batch", "0"},
                   [] { Sampler({.samples = 7, .global_batch = 0}); });
  expect_rejection(ErrorKind::kInternal, {"step", "-1"},
                   [] { Sampler({.samples = 7, .global_batch = 2}).batch(-1); });
}

TEST(Split, IsDisjointCompleteAndAscending) {
  for (const int64_t n : {2, 10, 1797}) {
    const Split split = split_rows(n, 0.3, 17);
    EXPECT_TRUE(std::is_sorted(split.train.begin(), split.train.end()));
    EXPECT_TRUE(std::is_sorted(split.validation.begin(), split.validation.end()));
    EXPECT_EQ(static_cast<int64_t>(split.validation.size()), (3 * n + 5) / 10);
    std::vector<int64_t> rows = split.train;
    rows.insert(rows.end(), split.validation.begin(), split.validation.end());
    std::sort(rows.begin(), rows.end());
    EXPECT_EQ(rows, ascending(n));
  }
}

TEST(Split, IsTheOneThatTheDefinitionGives) {
  EXPECT_EQ(split_rows(10, 0.3, 1).validation, (std::vector<int64_t>{0, 6, 9}));
}

TEST(Split, DependsOnTheSeed) {
  EXPECT_EQ(split_rows(100, 0.2, 1).validation, split_rows(100, 0.2, 1).validation);
  EXPECT_NE(split_rows(100, 0.2, 1).validation, split_rows(100, 0.2, 2).validation);
}

TEST(Split, OfNothingGivesAllToTraining) {
  const Split split = split_rows(5, 0.0, 1);
  EXPECT_EQ(split.train, ascending(5));
  EXPECT_TRUE(split.validation.empty());
}

TEST(Split, RejectsFractionsThatMakeNoSplit) {
  expect_rejection(ErrorKind::kUsage, {"[0, 1)", "1"}, [] { split_rows(10, 1.0, 1); });
  expect_rejection(ErrorKind::kUsage, {"[0, 1)", "-0.1"}, [] { split_rows(10, -0.1, 1); });
  expect_rejection(ErrorKind::kUsage, {"[0, 1)", "nan"}, [] { split_rows(10, std::nan(""), 1); });
  expect_rejection(ErrorKind::kUsage, {"0.01", "10"}, [] { split_rows(10, 0.01, 1); });
  expect_rejection(ErrorKind::kUsage, {"0.99", "10"}, [] { split_rows(10, 0.99, 1); });
}

}  // namespace
}  // namespace lockstep
