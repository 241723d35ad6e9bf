// The order of samples depends on seed and epoch alone and can be entered anywhere.
#include "lockstep/data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
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

std::vector<int64_t> order(uint64_t seed, int64_t epoch, int64_t n) {
  std::vector<int64_t> rows(static_cast<size_t>(n));
  Permutation(seed, RandomPurpose::kShuffle, epoch, n).rows(0, rows);
  return rows;
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
    EXPECT_EQ(rows, order(3, epoch, 100));
    std::sort(rows.begin(), rows.end());
    EXPECT_EQ(rows, ascending(100));
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

TEST(Sampler, GivesAnyPartOfABatch) {
  Sampler sampler({.samples = 23, .global_batch = 5, .seed = 1, .last_batch = LastBatch::kPad});
  GlobalBatch part;
  for (int64_t step = 0; step < 10; ++step) {
    const GlobalBatch whole = sampler.batch(step);
    for (int64_t first = 0; first < 5; ++first) {
      for (int64_t count = 1; first + count <= 5; ++count) {
        sampler.batch(step, first, count, part);
        EXPECT_EQ(part.samples,
                  std::vector<int64_t>(whole.samples.begin() + first, whole.samples.begin() + first + count));
        EXPECT_EQ(part.valid, whole.valid);
      }
    }
  }
}

// The order of 2^40 samples costs no more than that of few.
TEST(Sampler, DrawsFromMoreSamplesThanMemoryHolds) {
  constexpr int64_t kSamples = (int64_t{1} << 40) + 7;
  Sampler sampler({.samples = kSamples, .global_batch = 4096, .seed = 3});
  std::set<int64_t> seen;
  for (const int64_t step : {int64_t{0}, int64_t{1}, sampler.steps_per_epoch() - 1}) {
    for (const int64_t row : sampler.batch(step).samples) {
      EXPECT_TRUE(row >= 0 && row < kSamples);
      EXPECT_TRUE(seen.insert(row).second) << row;
    }
  }
  EXPECT_GT(*seen.rbegin(), int64_t{1} << 39);
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
  const std::vector<int64_t> rows = order(1, 1, 23);
  const GlobalBatch last = sampler.batch(9);
  EXPECT_EQ(last.valid, 3);
  EXPECT_EQ(last.samples, (std::vector<int64_t>{rows[20], rows[21], rows[22], rows[0], rows[1]}));
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

// Pieces of an epoch's order, and behind each the first samples of the next one's.
TEST(Sampler, BatchesShareSamplesOverTheEndsOfEpochs) {
  for (const LastBatch last : {LastBatch::kDrop, LastBatch::kPad}) {
    for (const int64_t overlap : {1, 2, 3, 4}) {
      const SamplerOptions options{
          .samples = 29, .global_batch = 8, .seed = 5, .last_batch = last, .overlap = overlap};
      Sampler sampler(options);
      const int64_t stride = 8 - overlap, steps = sampler.steps_per_epoch();
      EXPECT_EQ(steps, last == LastBatch::kDrop ? 29 / stride : (29 + stride - 1) / stride);
      std::vector<int64_t> stream, counts;  // of four epochs
      for (int64_t epoch = 0; epoch < 4; ++epoch) {
        const std::vector<int64_t> rows = order(5, epoch, 29);
        for (int64_t i = 0; i < steps * stride; ++i) {
          stream.push_back(rows[static_cast<size_t>(i % 29)]);
          counts.push_back(i < 29 ? 1 : 0);
        }
      }
      GlobalBatch part;
      for (int64_t step = 0; step < 3 * steps; ++step) {
        const auto begin = static_cast<std::ptrdiff_t>(step * stride);
        const GlobalBatch batch = Sampler(options).batch(step);
        EXPECT_EQ(batch.samples, std::vector<int64_t>(stream.begin() + begin, stream.begin() + begin + 8))
            << step;
        EXPECT_EQ(batch.epoch, step / steps);
        EXPECT_EQ(batch.position, step % steps);
        EXPECT_EQ(batch.valid, std::reduce(counts.begin() + begin, counts.begin() + begin + 8)) << step;
        for (int64_t first = 0; first < 8; ++first) {
          sampler.batch(step, first, 8 - first, part);
          EXPECT_EQ(part.samples, std::vector<int64_t>(batch.samples.begin() + first, batch.samples.end()));
          EXPECT_EQ(sampler.valid(step, first, 1), counts[static_cast<size_t>(begin + first)]);
        }
      }
    }
  }
}

TEST(Sampler, AnEpochOfOneBatchSharesWithTheNextOne) {
  Sampler sampler({.samples = 5, .global_batch = 6, .seed = 2, .overlap = 2});
  ASSERT_EQ(sampler.steps_per_epoch(), 1);
  const std::vector<int64_t> first = order(2, 0, 5), second = order(2, 1, 5);
  EXPECT_EQ(sampler.batch(0).samples,
            (std::vector<int64_t>{first[0], first[1], first[2], first[3], second[0], second[1]}));
  EXPECT_EQ(sampler.batch(0).valid, 6);
}

TEST(Sampler, RejectsEpochsWithoutABatch) {
  expect_rejection(ErrorKind::kUsage, {"8", "7"}, [] { Sampler({.samples = 7, .global_batch = 8}); });
  expect_rejection(ErrorKind::kUsage, {"no samples"},
                   [] { Sampler({.samples = 0, .global_batch = 8, .last_batch = LastBatch::kPad}); });
  expect_rejection(ErrorKind::kUsage, {"global batch", "0"},
                   [] { Sampler({.samples = 7, .global_batch = 0}); });
  expect_rejection(ErrorKind::kUsage, {"8", "2 of the next", "5"},
                   [] { Sampler({.samples = 5, .global_batch = 8, .overlap = 2}); });
  for (const int64_t overlap : {-1, 5}) {
    expect_rejection(ErrorKind::kInternal, {"overlap", "8", std::to_string(overlap)},
                     [&] { Sampler({.samples = 50, .global_batch = 8, .overlap = overlap}); });
  }
  expect_rejection(ErrorKind::kInternal, {"step", "-1"},
                   [] { Sampler({.samples = 7, .global_batch = 2}).batch(-1); });
}

}  // namespace
}  // namespace lockstep
