// A computed permutation_of is a permutation, and looks like a random one.
#include "lockstep/data/permutation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "data/rejection.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

Permutation permutation_of(uint64_t seed, int64_t epoch, int64_t n) {
  return Permutation(seed, RandomPurpose::kShuffle, epoch, n);
}

std::vector<int64_t> rows_of(const Permutation& permutation) {
  std::vector<int64_t> rows(static_cast<size_t>(permutation.size()));
  permutation.rows(0, rows);
  return rows;
}

// How far the counts of equally likely outcomes are from equal, in standard deviations (normal approximation
// of chi-square).
double deviation(const std::vector<int64_t>& counts, double degrees_of_freedom) {
  double total = 0.0;
  for (int64_t count : counts) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(counts.size());
  double chi_square = 0.0;
  for (int64_t count : counts) chi_square += std::pow(static_cast<double>(count) - expected, 2) / expected;
  return (chi_square - degrees_of_freedom) / std::sqrt(2.0 * degrees_of_freedom);
}

TEST(Permutation, HoldsEveryRowOnceAndKnowsItsPlace) {
  std::vector<char> seen;
  for (int64_t n = 1; n <= 2500; ++n) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
      const Permutation permutation = permutation_of(seed, n % 5, n);
      seen.assign(static_cast<size_t>(n), 0);
      for (int64_t position = 0; position < n; ++position) {
        const int64_t row = permutation.row(position);
        ASSERT_TRUE(row >= 0 && row < n) << n;
        ASSERT_EQ(seen[static_cast<size_t>(row)]++, 0) << n;
        ASSERT_EQ(permutation.position(row), position) << n;
      }
    }
  }
}

TEST(Permutation, HoldsEveryRowOnceInAFewMillion) {
  for (const int64_t n : {int64_t{1} << 20, (int64_t{1} << 20) + 1, int64_t{1000003}}) {
    std::vector<int64_t> rows = rows_of(permutation_of(3, 1, n));
    std::sort(rows.begin(), rows.end());
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(rows[static_cast<size_t>(i)], i);
  }
}

// Two rows at one position, or one at two, would break the way back.
TEST(Permutation, OfVeryManyRowsGoesBothWays) {
  for (const int64_t n :
       {(int64_t{1} << 31) + 11, int64_t{1} << 40, (int64_t{1} << 40) - 1, (int64_t{1} << 62) - 1}) {
    const Permutation permutation = permutation_of(7, 2, n);
    std::set<int64_t> seen;
    for (int64_t i = 0; i < 20000; ++i) {
      const int64_t position = i < 10000 ? i : n - 1 - (i - 10000) * ((n - 1) / 10000);
      const int64_t row = permutation.row(position);
      ASSERT_TRUE(row >= 0 && row < n);
      ASSERT_EQ(permutation.position(row), position);
      ASSERT_EQ(permutation.row(permutation.position(position)), position);
      seen.insert(row);
    }
    EXPECT_GE(seen.size(), 19999u);  // position 0 may be asked for twice
  }
}

TEST(Permutation, BeginsAgainBehindItsEnd) {
  const Permutation permutation = permutation_of(1, 1, 5);
  std::vector<int64_t> rows(12);
  permutation.rows(3, rows);
  for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(rows[static_cast<size_t>(i)], permutation.row((3 + i) % 5));
}

// They are computed several at once, and many by distances that are looked up.
TEST(Permutation, RowsTogetherAreThoseOneByOne) {
  for (const int64_t n : {1, 2, 3, 7, 64, 1000}) {
    const Permutation permutation = permutation_of(5, 2, n);
    for (size_t count :
         {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 100, 191, 192, 193, 255, 256, 257, 2501}) {
      std::vector<int64_t> rows(count), expected;
      permutation.rows(n - 1, rows);
      for (size_t i = 0; i < count; ++i)
        expected.push_back(permutation.row((n - 1 + static_cast<int64_t>(i)) % n));
      EXPECT_EQ(rows, expected) << n;
    }
  }
}

// Pinned: runs that were begun with an older version must go on in the same permutation_of. Computed by
// tests/data/permutation.py, a second program of the definition.
TEST(Permutation, IsTheOneThatTheDefinitionGives) {
  EXPECT_EQ(rows_of(permutation_of(1, 0, 12)), (std::vector<int64_t>{5, 11, 6, 0, 2, 4, 7, 9, 3, 8, 1, 10}));
  EXPECT_EQ(rows_of(permutation_of(1, (int64_t{1} << 33) + 1, 12)),
            (std::vector<int64_t>{4, 7, 2, 1, 3, 0, 9, 8, 5, 6, 10, 11}));
  const Permutation large = permutation_of(7, 3, int64_t{1} << 40);
  EXPECT_EQ((std::vector<int64_t>{large.row(0), large.row(1), large.row(123456789012)}),
            (std::vector<int64_t>{110824059017, 956425060267, 1008639722935}));
}

TEST(Permutation, DiffersByEpochSeedAndPurpose) {
  std::set<std::vector<int64_t>> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (int64_t epoch = 0; epoch < 20; ++epoch) seen.insert(rows_of(permutation_of(seed, epoch, 100)));
    seen.insert(rows_of(Permutation(seed, RandomPurpose::kTest, 0, 100)));
  }
  EXPECT_EQ(seen.size(), 420u);
}

// All orders of few rows, equally often: odd ones as well as even ones.
TEST(Permutation, TakesEveryOrderOfFewRowsEquallyOften) {
  int64_t orders = 1;
  for (int64_t n = 2; n <= 7; ++n) {
    orders *= n;
    std::map<std::vector<int64_t>, int64_t> counts;
    for (int64_t epoch = 0; epoch < 100 * orders; ++epoch) ++counts[rows_of(permutation_of(17, epoch, n))];
    ASSERT_EQ(static_cast<int64_t>(counts.size()), orders) << n;
    std::vector<int64_t> list;
    for (const auto& [rows, count] : counts) list.push_back(count);
    EXPECT_LT(std::abs(deviation(list, static_cast<double>(orders - 1))), 4.0) << n;
  }
}

// Where a row stands; which two stand at two places, neighbours in the permutation_of or on the grid; and
// where a row stands in two epochs, one behind the other.
TEST(Permutation, PutsRowsEverywhereEquallyOften) {
  for (const int64_t n : {8, 13, 63, 64}) {
    const int64_t pairs = n * (n - 1), columns = 8;
    std::vector<int64_t> places(static_cast<size_t>(n * n)), neighbours(static_cast<size_t>(pairs)),
        below(neighbours), epochs(places), fixed(static_cast<size_t>(n));
    std::vector<int64_t> before = rows_of(permutation_of(5, -1, n));
    const auto pair = [&](int64_t a, int64_t b) {
      return static_cast<size_t>(a * (n - 1) + (b > a ? b - 1 : b));
    };
    for (int64_t epoch = 0; epoch < 30 * n * n; ++epoch) {
      const std::vector<int64_t> rows = rows_of(permutation_of(5, epoch, n));
      for (size_t i = 0; i < static_cast<size_t>(n); i += static_cast<size_t>(n / 8)) {
        ++places[i * static_cast<size_t>(n) + static_cast<size_t>(rows[i])];
        if (rows[i] == static_cast<int64_t>(i)) ++fixed[i];
      }
      ++neighbours[pair(rows[0], rows[1])];
      ++below[pair(rows[0], rows[static_cast<size_t>(std::min(columns, n - 1))])];
      ++epochs[static_cast<size_t>(before[2] * n + rows[2])];
      before = rows;
    }
    for (size_t i = 0; i < static_cast<size_t>(n); i += static_cast<size_t>(n / 8)) {
      const auto begin = places.begin() + static_cast<std::ptrdiff_t>(i) * n;
      EXPECT_LT(std::abs(deviation({begin, begin + n}, static_cast<double>(n - 1))), 4.5)
          << n << ", position " << i;
      // Binomial with mean 30 n and variance just below.
      EXPECT_LT(std::abs(static_cast<double>(fixed[i] - 30 * n)) / std::sqrt(30.0 * static_cast<double>(n)),
                4.5)
          << n << ", position " << i;
    }
    EXPECT_LT(std::abs(deviation(neighbours, static_cast<double>(pairs - 1))), 4.5) << n;
    EXPECT_LT(std::abs(deviation(below, static_cast<double>(pairs - 1))), 4.5) << n;
    EXPECT_LT(std::abs(deviation(epochs, static_cast<double>(n * n - 1))), 4.5) << n;
  }
}

// Of many rows: each part of the permutation_of takes from each part of the rows alike, and neither
// neighbours nor epochs are correlated.
TEST(Permutation, MixesManyRows) {
  constexpr int64_t kParts = 64, kDraws = 200000;
  for (const int64_t n : {int64_t{1000000}, (int64_t{1} << 40) + 12345}) {
    std::vector<int64_t> counts(kParts * kParts);
    const Permutation first = permutation_of(9, 0, n), second = permutation_of(9, 1, n);
    const auto centred = [&](int64_t row) { return static_cast<double>(row) / static_cast<double>(n) - 0.5; };
    double neighbours = 0.0, epochs = 0.0;
    for (int64_t i = 0; i < kDraws; ++i) {
      const int64_t position = i * (n / kDraws);
      const int64_t row = first.row(position);
      ++counts[static_cast<size_t>((i * kParts / kDraws) * kParts +
                                   static_cast<int64_t>((centred(row) + 0.5) * kParts))];
      neighbours += centred(row) * centred(first.row(position + 1));
      epochs += centred(row) * centred(second.row(position));
    }
    EXPECT_LT(std::abs(deviation(counts, kParts * kParts - 1)), 4.0) << n;
    // The product of two independent uniform numbers has the variance 1/144.
    EXPECT_LT(std::abs(neighbours) / std::sqrt(kDraws / 144.0), 4.0) << n;
    EXPECT_LT(std::abs(epochs) / std::sqrt(kDraws / 144.0), 4.0) << n;
  }
}

TEST(Permutation, RefusesSizesBeyondItsNumbers) {
  expect_rejection(ErrorKind::kInternal, {"2^62"}, [] { permutation_of(1, 0, int64_t{1} << 62); });
  expect_rejection(ErrorKind::kInternal, {"-1"}, [] { permutation_of(1, 0, -1); });
}

}  // namespace
}  // namespace lockstep
