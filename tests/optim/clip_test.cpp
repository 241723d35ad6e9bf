// The global norm is exact, ordered by blocks, and clips as documented.
#include "lockstep/optim/clip.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"

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
  return Tensor::from(Shape{static_cast<int64_t>(values.size())}, values, test_backend());
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
      const Tensor block = tensor_of(std::vector<TypeParam>(values.begin() + begin, values.begin() + end));
      Tensor sum = Tensor::empty({}, DType::kF64, test_backend());
      test_backend().block_square_sums(dtype_of<TypeParam>, end - begin, block.data(),
                                       sum.mutable_data_as<double>());
      sums[static_cast<size_t>(b)] = sum.item();
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

// ---- by value and adaptively
// -----------------------------------------------------------------------------------

const std::vector<ParameterEntry> kClippedParameters = {
    {.name = "matrix", .shape = {3, 5}, .offset = 0, .initializer = {}},
    {.name = "vector", .shape = {6}, .offset = 64, .initializer = {}},
    {.name = "convolution", .shape = {4, 2, 1, 3}, .offset = 128, .initializer = {}},
};
constexpr int64_t kClippedExtent = 192;

// The elements that make up the unit of each element: written out from the documentation.
std::vector<std::vector<size_t>> units() {
  std::vector<std::vector<size_t>> all;
  for (size_t column = 0; column < 5; ++column) all.push_back({column, 5 + column, 10 + column});
  all.push_back({64, 65, 66, 67, 68, 69});
  for (size_t output = 0; output < 4; ++output) {
    all.emplace_back();
    for (size_t i = 0; i < 6; ++i) all.back().push_back(128 + 6 * output + i);
  }
  return all;
}

template <class T>
class GradientClip : public ::testing::Test {};
TYPED_TEST_SUITE(GradientClip, Precisions);

TYPED_TEST(GradientClip, ByValueClampsEachScaledComponent) {
  std::vector<TypeParam> values = random_values<TypeParam>(300);
  values[0] = TypeParam{0};
  values[1] = TypeParam{1000};
  values[2] = TypeParam{-1000};
  Tensor gradients = tensor_of(values);
  clip_by_value(gradients, 290, 0.5, 0.125);
  const std::vector<TypeParam> clipped = gradients.to_vector<TypeParam>();
  int64_t clamped = 0;
  for (size_t i = 0; i < 290; ++i) {
    EXPECT_EQ(clipped[i], std::clamp(values[i] / 2, TypeParam{-0.125}, TypeParam{0.125})) << i;
    clamped += std::abs(clipped[i]) == TypeParam{0.125};
  }
  EXPECT_GT(clamped, 2);
  EXPECT_LT(clamped, 290);
  for (size_t i = 290; i < 300; ++i) EXPECT_EQ(clipped[i], values[i]) << "behind the parameters";
}

TYPED_TEST(GradientClip, AdaptiveShortensUnitsThatAreLongAgainstTheirParameters) {
  std::vector<TypeParam> g = random_values<TypeParam>(kClippedExtent + 10);
  std::vector<TypeParam> w = random_values<TypeParam>(kClippedExtent);
  for (size_t i = 0; i < 3; ++i) w[5 * i + 1] = 0;  // a unit of zero parameters
  for (size_t i = 0; i < 3; ++i) g[5 * i + 2] = 0;  // a unit of zero gradients
  for (size_t i = 128; i < 134; ++i) g[i] /= 8192;  // a short one
  Tensor gradients = tensor_of(g);
  clip_adaptively(gradients, tensor_of(w), kClippedParameters, 0.25, 0.1);
  const std::vector<TypeParam> clipped = gradients.to_vector<TypeParam>();
  std::vector<bool> seen(g.size());
  for (const std::vector<size_t>& unit : units()) {
    double gg = 0, ww = 0;
    for (size_t i : unit) {
      gg += std::pow(0.25 * g[i], 2);
      ww += std::pow(static_cast<double>(w[i]), 2);
    }
    const double limit = 0.1 * std::max(std::sqrt(ww), 1e-3);
    const double factor = std::sqrt(gg) > limit ? limit / std::sqrt(gg) : 1.0;
    for (size_t i : unit) {
      seen[i] = true;
      EXPECT_NEAR(clipped[i], 0.25 * g[i] * factor, 1e-6 * std::abs(0.25 * g[i] * factor)) << i;
      if (factor == 1.0) {
        EXPECT_EQ(clipped[i], g[i] / 4) << "left alone: " << i;
      }
    }
  }
  EXPECT_EQ(clipped[2], TypeParam{0});
  for (size_t i = 0; i < g.size(); ++i) {
    if (!seen[i]) {
      EXPECT_EQ(clipped[i], g[i]) << "outside of the parameters: " << i;
    }
  }
}

const ParameterShards& one_worker() {
  static const std::unique_ptr<Communicator> self = make_self_communicator();
  static const ParameterShards shards(*self, {{{0, kClippedExtent}, 0}});
  return shards;
}

TYPED_TEST(GradientClip, NothingOnLeavesGradientAndScaleAlone) {
  const std::vector<TypeParam> g = random_values<TypeParam>(kClippedExtent);
  Tensor gradients = tensor_of(g);
  EXPECT_EQ(clip_gradients({}, gradients, tensor_of(g), kClippedParameters, one_worker(), 0.3, 50.0), 0.3);
  EXPECT_EQ(gradients.to_vector<TypeParam>(), g);
}

TYPED_TEST(GradientClip, NonFiniteNormNeverClips) {
  const std::vector<TypeParam> g = random_values<TypeParam>(kClippedExtent);
  Tensor gradients = tensor_of(g);
  const ClipSettings all{.global_norm = 0.1, .value = 0.1, .adaptive = 0.1};
  EXPECT_EQ(clip_gradients(all, gradients, tensor_of(g), kClippedParameters, one_worker(), 0.3, kNaN), 0.3);
  EXPECT_EQ(clip_gradients(all, gradients, tensor_of(g), kClippedParameters, one_worker(), 0.3, kInfinity),
            0.3);
  EXPECT_EQ(gradients.to_vector<TypeParam>(), g);
}

TYPED_TEST(GradientClip, GlobalNormAloneOnlyChangesTheScale) {
  const std::vector<TypeParam> g = random_values<TypeParam>(kClippedExtent);
  Tensor gradients = tensor_of(g);
  EXPECT_EQ(clip_gradients({.global_norm = 1.0}, gradients, tensor_of(g), kClippedParameters, one_worker(),
                           0.5, 8.0),
            0.5 * clip_factor(8.0, 1.0));
  EXPECT_EQ(gradients.to_vector<TypeParam>(), g);
}

TYPED_TEST(GradientClip, AllTogetherClipOneAfterTheOther) {
  const std::vector<TypeParam> g = random_values<TypeParam>(kClippedExtent), w(kClippedExtent, TypeParam{1});
  Tensor together = tensor_of(g), apart = tensor_of(g);
  const double scale =
      clip_gradients({.global_norm = 0.05, .value = 0.02, .adaptive = 0.01}, together, tensor_of(w),
                     kClippedParameters, one_worker(), 0.5, global_norm(together, kClippedExtent, 0.5));
  clip_adaptively(apart, tensor_of(w), kClippedParameters, 0.5, 0.01);
  clip_by_value(apart, kClippedExtent, 1.0, 0.02);
  EXPECT_EQ(together.to_vector<TypeParam>(), apart.to_vector<TypeParam>());
  EXPECT_EQ(scale, clip_factor(global_norm(apart, kClippedExtent, 1.0), 0.05));
  EXPECT_LT(scale, 1.0);
}

}  // namespace
}  // namespace lockstep
