// The global norm is exact, ordered by blocks, and clips as documented.
#include "optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/philox.h"
#include "core/thread_pool.h"

namespace lockstep {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <class T>
std::vector<T> random_values(int64_t n) {
  std::vector<T> values(static_cast<size_t>(n));
  const PhiloxKey key = philox_key(11, RandomPurpose::kTest);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<T>(uniform_float(philox(key, {static_cast<uint32_t>(i)}).r[1]) - 0.4f);
  }
  return values;
}

template <class T>
Tensor tensor_of(const std::vector<T>& values) {
  return Tensor::from(Shape{static_cast<int64_t>(values.size())}, values, cpu_backend());
}

// The sum over leaves [begin, end), split at the largest power of two below their number.
double tree(const std::vector<double>& leaves, size_t begin, size_t end) {
  const size_t n = end - begin;
  if (n == 1) return leaves[begin];
  size_t left = 1;
  while (2 * left < n) left *= 2;
  return tree(leaves, begin, begin + left) + tree(leaves, begin + left, end);
}

template <class T>
class GlobalNorm : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GlobalNorm, Precisions);

TYPED_TEST(GlobalNorm, AgreesWithALongDoubleSum) {
  for (int64_t n : {1, 2, 63, 4095, 4096, 4097, 12'288, 100'003}) {
    const std::vector<TypeParam> values = random_values<TypeParam>(n);
    long double squares = 0;
    for (TypeParam value : values) squares += static_cast<long double>(value) * value;
    const auto expected = static_cast<double>(std::sqrt(squares));
    EXPECT_NEAR(global_norm(tensor_of(values), n, 1.0), expected, 1e-13 * expected) << n;
    EXPECT_NEAR(global_norm(tensor_of(values), n, -0.125), 0.125 * expected, 1e-13 * expected) << n;
  }
}

TYPED_TEST(GlobalNorm, AddsBlocksComputedAnywhereInTreeOrder) {
  for (int64_t blocks : {1, 2, 3, 5, 7, 11}) {
    const int64_t n = (blocks - 1) * Backend::kNormBlock + 77;
    const std::vector<TypeParam> values = random_values<TypeParam>(n);
    std::vector<double> sums(static_cast<size_t>(blocks));
    for (int64_t b = 0; b < blocks;
         ++b) {  // each block as another worker might compute it: from its own array
      const int64_t begin = b * Backend::kNormBlock, end = std::min(n, begin + Backend::kNormBlock);
      const std::vector<TypeParam> block(values.begin() + begin, values.begin() + end);
      cpu_backend().block_square_sums(dtype_of<TypeParam>, end - begin, block.data(),
                                      &sums[static_cast<size_t>(b)]);
    }
    EXPECT_EQ(global_norm(tensor_of(values), n, 1.0), std::sqrt(tree(sums, 0, sums.size()))) << blocks;
  }
}

TYPED_TEST(GlobalNorm, ThreadsDoNotChangeTheBits) {
  const Tensor gradients = tensor_of(random_values<TypeParam>(400'001));
  const double one = global_norm(gradients, 400'001, 1.0);
  set_threads(2);
  const double two = global_norm(gradients, 400'001, 1.0);
  set_threads(1);
  EXPECT_EQ(one, two);
}

TYPED_TEST(GlobalNorm, LeavesOutWhatLiesBehindTheParameters) {
  std::vector<TypeParam> values(5000, std::numeric_limits<TypeParam>::quiet_NaN());
  std::fill(values.begin(), values.begin() + 4100, TypeParam{0});
  values[4099] = TypeParam{3};
  EXPECT_EQ(global_norm(tensor_of(values), 4100, 1.0), 3.0);
  EXPECT_EQ(global_norm(tensor_of(values), 4099, 1.0), 0.0);
  EXPECT_EQ(global_norm(tensor_of(values), 0, 1.0), 0.0);
}

TYPED_TEST(GlobalNorm, ShowsNonFiniteGradients) {
  for (size_t place : {size_t{0}, size_t{4096}, size_t{9999}}) {
    std::vector<TypeParam> values(10'000, TypeParam{1});
    values[place] = std::numeric_limits<TypeParam>::quiet_NaN();
    EXPECT_TRUE(std::isnan(global_norm(tensor_of(values), 10'000, 1.0)));
    values[place] = -std::numeric_limits<TypeParam>::infinity();
    EXPECT_EQ(global_norm(tensor_of(values), 10'000, 1.0), kInfinity);
  }
}

TEST(GlobalNorm, SquaresSinglePrecisionGradientsWithoutOverflowOrUnderflow) {
  EXPECT_NEAR(global_norm(tensor_of(std::vector<float>(4, 1e30f)), 4, 1.0), 2e30, 1e24);
  EXPECT_NEAR(global_norm(tensor_of(std::vector<float>(4, 1e-30f)), 4, 1.0), 2e-30, 1e-36);
}

TEST(GlobalNorm, RefusesMoreElementsThanThereAre) {
  const Tensor gradients = tensor_of(std::vector<float>(4, 1.0f));
  EXPECT_THROW(global_norm(gradients, 5, 1.0), Error);
  EXPECT_THROW(global_norm(gradients, -1, 1.0), Error);
}

TEST(ClipFactor, ScalesDownToTheMaximumAndNeverUp) {
  EXPECT_DOUBLE_EQ(clip_factor(10.0, 1.0), 1.0 / (10.0 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_factor(2.0, 0.5), 0.5 / (2.0 + 1e-6));
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(0.0, 1.0), 1.0);
  EXPECT_LT(clip_factor(1.0, 1.0), 1.0);
}

TEST(ClipFactor, ZeroTurnsClippingOffInsteadOfZeroingGradients) {
  EXPECT_EQ(clip_factor(10.0, 0.0), 1.0);
  EXPECT_EQ(clip_factor(0.0, 0.0), 1.0);
}

TEST(ClipFactor, NonFiniteNormNeverClips) {
  EXPECT_EQ(clip_factor(kInfinity, 1.0), 1.0);
  EXPECT_EQ(clip_factor(kNaN, 1.0), 1.0);
}

TEST(ClipFactor, RefusesANegativeMaximum) {
  EXPECT_THROW(clip_factor(1.0, -1.0), Error);
  EXPECT_THROW(clip_factor(1.0, kNaN), Error);
}

}  // namespace
}  // namespace lockstep
