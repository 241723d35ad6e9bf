// Sums, means, maxima, sums of squares and the finite check against fp64 and long double loops.
#include "kernels/arrays.h"

namespace lockstep::test {
namespace {

template <class T>
class Reductions : public Kernels<T> {};
TYPED_TEST_SUITE(Reductions, Precisions);

struct ReducedExtents {
  int64_t outer, extent, inner;
};
// Rows, columns, both; sizes around lanes, folds, blocks, segments and tiles.
constexpr ReducedExtents kReducedExtents[] = {
    {1, 1, 1},     {1, 10, 1},      {32, 10, 1},   {7, 1000, 1},   {3, 5000, 1},   {2, 100'001, 1},
    {1, 32, 10},   {1, 32, 128},    {1, 33, 10},   {1, 7, 3},      {1, 5000, 3},   {1, 40'000, 10},
    {1, 3000, 17}, {1, 1000, 64},   {1, 2049, 65}, {1, 64, 1000},  {1, 3, 50'257}, {5, 16, 32},
    {64, 64, 33},  {3, 2000, 50},   {2, 1, 7},     {100, 2, 2},    {4, 9, 300},    {0, 5, 5},
    {4, 0, 3},     {1, 1030, 1023}, {1, 200, 2},   {9, 1, 40'000},
};

TYPED_TEST(Reductions, SumsAreAccurateInEveryLayoutAndTheSameOnAnyThreads) {
  using T = TypeParam;
  for (const ReducedExtents& e : kReducedExtents) {
    const std::vector<T> x = random_values<T>(e.outer * e.extent * e.inner, 11);
    std::vector<double> sums(static_cast<size_t>(e.outer * e.inner)), magnitudes(sums.size());
    for (int64_t o = 0; o < e.outer; ++o) {
      for (int64_t i = 0; i < e.inner; ++i) {
        long double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < e.extent; ++k) {
          const long double value =
              static_cast<long double>(x[static_cast<size_t>((o * e.extent + k) * e.inner + i)]);
          sum += value;
          magnitude += std::fabs(value);
        }
        sums[static_cast<size_t>(o * e.inner + i)] = static_cast<double>(sum);
        magnitudes[static_cast<size_t>(o * e.inner + i)] = static_cast<double>(magnitude);
      }
    }
    const std::vector<T> y = on_any_threads([&] {
      std::vector<T> values(sums.size(), T(99));
      this->backend.reduce(ReduceOp::kSum, this->kDType, e.outer, e.extent, e.inner, x.data(), values.data());
      return values;
    });
    for (size_t i = 0; i < y.size(); ++i) {
      // Blocked summation: far below the extent's worth of roundings that one running sum would make.
      ASSERT_LE(std::fabs(static_cast<double>(y[i]) - sums[i]),
                4.0 * std::numeric_limits<T>::epsilon() * magnitudes[i])
          << e.outer << "x" << e.extent << "x" << e.inner << " at " << i;
    }
  }
}

TYPED_TEST(Reductions, MeansDivideTheSumByTheExtent) {
  using T = TypeParam;
  const std::vector<T> x = random_values<T>(6 * 35 * 4, 12);
  std::vector<T> sums(24), means(24);
  this->backend.reduce(ReduceOp::kSum, this->kDType, 6, 35, 4, x.data(), sums.data());
  this->backend.reduce(ReduceOp::kMean, this->kDType, 6, 35, 4, x.data(), means.data());
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(means[i], sums[i] / T(35));
}

TYPED_TEST(Reductions, SumsOfIntegersAreExact) {
  using T = TypeParam;
  const int64_t rows = 70'000, columns = 12;
  std::vector<T> x(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(i % 7);
  std::vector<T> y(static_cast<size_t>(columns)), expected(y.size(), T(0));
  for (size_t i = 0; i < x.size(); ++i) expected[i % static_cast<size_t>(columns)] += x[i];
  this->backend.reduce(ReduceOp::kSum, this->kDType, 1, rows, columns, x.data(), y.data());
  EXPECT_EQ(y, expected);
}

TYPED_TEST(Reductions, MaximaAreExactAndNanWins) {
  using T = TypeParam;
  for (const ReducedExtents& e : kReducedExtents) {
    std::vector<T> x = random_values<T>(e.outer * e.extent * e.inner, 13, -9.0, -1.0);
    std::vector<T> expected(static_cast<size_t>(e.outer * e.inner), -std::numeric_limits<T>::infinity());
    for (int64_t o = 0; o < e.outer; ++o) {
      for (int64_t k = 0; k < e.extent; ++k) {
        for (int64_t i = 0; i < e.inner; ++i) {
          T& best = expected[static_cast<size_t>(o * e.inner + i)];
          best = std::max(best, x[static_cast<size_t>((o * e.extent + k) * e.inner + i)]);
        }
      }
    }
    const auto run = [&] {
      std::vector<T> y(expected.size());
      this->backend.reduce(ReduceOp::kMax, this->kDType, e.outer, e.extent, e.inner, x.data(), y.data());
      return y;
    };
    EXPECT_EQ(on_any_threads(run), expected) << e.outer << "x" << e.extent << "x" << e.inner;
    if (e.outer * e.extent == 0) continue;
    for (int64_t k : {int64_t{0}, e.extent / 2, e.extent - 1}) {
      T& element = x[static_cast<size_t>(k * e.inner)];
      const T kept = element;
      element = std::numeric_limits<T>::quiet_NaN();
      EXPECT_TRUE(std::isnan(run()[0]));
      element = kept;
    }
  }
}

TYPED_TEST(Reductions, BlockSquareSumsAreThoseOfEachBlockAlone) {
  using T = TypeParam;
  for (int64_t n : {int64_t{1}, int64_t{4095}, int64_t{4096}, int64_t{4097}, int64_t{100'000}}) {
    const std::vector<T> x = random_values<T>(n, 14, -1e3, 1e3);
    const int64_t blocks = (n + Backend::kNormBlock - 1) / Backend::kNormBlock;
    const std::vector<double> sums = on_any_threads([&] {
      std::vector<double> values(static_cast<size_t>(blocks));
      this->backend.block_square_sums(this->kDType, n, x.data(), values.data());
      return values;
    });
    for (int64_t b = 0; b < blocks; ++b) {
      long double exact = 0;
      const int64_t begin = b * Backend::kNormBlock, end = std::min(n, begin + Backend::kNormBlock);
      for (int64_t i = begin; i < end; ++i) {
        exact += static_cast<long double>(x[static_cast<size_t>(i)]) *
                 static_cast<long double>(x[static_cast<size_t>(i)]);
      }
      EXPECT_NEAR(sums[static_cast<size_t>(b)], static_cast<double>(exact),
                  1e-14 * static_cast<double>(exact));
      // A shard that starts at this block computes the same bits.
      double alone = 0;
      this->backend.block_square_sums(this->kDType, end - begin, x.data() + begin, &alone);
      EXPECT_EQ(alone, sums[static_cast<size_t>(b)]);
    }
  }
}

TEST(BlockSquareSums, DoNotOverflowInFloat) {
  const std::vector<float> x(10, 1e30f);
  double sum = 0;
  cpu_backend().block_square_sums(DType::kF32, 10, x.data(), &sum);
  EXPECT_NEAR(sum, 1e61, 1e55);
}

TYPED_TEST(Reductions, AllFiniteFindsOneBadElementAnywhere) {
  using T = TypeParam;
  for (int64_t n : {int64_t{0}, int64_t{1}, int64_t{5}, int64_t{33}, int64_t{70'000}}) {
    std::vector<T> x = random_values<T>(n, 15);
    if (n > 1) x[1] = std::numeric_limits<T>::max(), x[0] = std::numeric_limits<T>::denorm_min();
    EXPECT_TRUE(this->backend.all_finite(this->kDType, n, x.data()));
    for (int64_t i : {int64_t{0}, n / 2, n - 1}) {
      for (T bad : {std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity(),
                    std::numeric_limits<T>::quiet_NaN()}) {
        if (n == 0) continue;
        std::vector<T> broken = x;
        broken[static_cast<size_t>(i)] = bad;
        EXPECT_FALSE(this->backend.all_finite(this->kDType, n, broken.data())) << i;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::test
