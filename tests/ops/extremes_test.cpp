// Softmax, attention, logistic functions and losses where exp overflows: finite, and right, in every
// precision.
#include <gtest/gtest.h>

#include <cmath>

#include "device.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/ops/attention.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/reduction.h"
#include "ops/derivative_check.h"

namespace lockstep::test {
namespace {

class Extremes : public testing::TestWithParam<DType> {
 protected:
  Tensor row(const std::vector<double>& numbers) const {
    return Tensor::from({1, static_cast<int64_t>(numbers.size())}, numbers, test_backend())
        .converted(GetParam());
  }
  // As many units in the last place as two roundings move a number by.
  double tolerance() const {
    switch (GetParam()) {
      case DType::kBF16:
        return 0x1p-7;
      case DType::kF16:
        return 0x1p-10;
      case DType::kF32:
        return 1e-6;
      default:
        return 1e-14;
    }
  }
  void expect(const Tensor& found, const std::vector<double>& expected) const {
    const auto numbers = found.to_vector<double>();
    ASSERT_EQ(numbers.size(), expected.size());
    for (size_t i = 0; i < numbers.size(); ++i) {
      EXPECT_NEAR(numbers[i], expected[i], tolerance() * (1e-3 + std::abs(expected[i]))) << i;
    }
  }
  // Value and gradient of sum(f(x) * slopes).
  void check(Tensor (*f)(const Tensor&), const std::vector<double>& at, const std::vector<double>& value,
             const std::vector<double>& slopes, const std::vector<double>& gradient) const {
    const std::vector<Tensor> x = {row(at)};
    const Function function = [f](std::span<const Tensor> in) { return f(in[0]); };
    const Tensor y = f(x[0]);
    expect(y, value);
    const Tensor u = Tensor::from(y.shape(), slopes, test_backend()).converted(y.dtype());
    expect(vjp(function, x, u).second[0], gradient);
  }
};

constexpr double kFar = 1e4, kHalfLargest = 65504.0;

// Where the cube of the argument overflows: the derivatives of any order too.
TEST_P(Extremes, Gelus) {
  for (Tensor (*f)(const Tensor&) : {&gelu, &gelu_tanh}) {
    const std::vector<double> at = {-kHalfLargest, -kFar, -100, 100, kFar, kHalfLargest};
    check(f, at, {0, 0, 0, 100, kFar, kHalfLargest}, {1, 1, 1, 1, 1, 1}, {0, 0, 0, 1, 1, 1});
    const std::vector<Tensor> x = {row(at)}, ones = {x[0].full_like(1.0)};
    const Function total = [f](std::span<const Tensor> in) { return sum(f(in[0])); };
    expect(grad(total, x, true)[0], {0, 0, 0, 1, 1, 1});
    expect(hvp(total, x, ones)[0], {0, 0, 0, 0, 0, 0});
  }
}

TEST_P(Extremes, Softmax) {
  check(softmax, {kFar, 0, -kFar}, {1, 0, 0}, {3, 5, 7}, {0, 0, 0});
  check(softmax, {-kFar, -kFar, kFar, kFar}, {0, 0, 0.5, 0.5}, {1, 1, 2, 6}, {0, 0, -1, 1});
  check(softmax, {kHalfLargest, -kHalfLargest}, {1, 0}, {3, 5}, {0, 0});
}

TEST_P(Extremes, LogSoftmax) {
  const double far = row({kFar}).item();
  check(log_softmax, {kFar, 0, -kFar}, {0, -far, -2 * far}, {0, 1, 0}, {-1, 1, 0});
  check(log_softmax, {-kFar, -kFar}, {-std::log(2), -std::log(2)}, {1, 0}, {0.5, -0.5});
}

TEST_P(Extremes, LogSumExp) {
  const auto f = [](const Tensor& x) { return log_sum_exp(x); };
  const double far = row({kFar}).item();
  check(f, {kFar, 0, -kFar}, {far}, {2}, {2, 0, 0});
  check(f, {-kFar, -kFar}, {std::log(2) - far}, {2}, {1, 1});
  check(f, {kHalfLargest, -kHalfLargest}, {row({kHalfLargest}).item()}, {1}, {1, 0});
}

TEST_P(Extremes, Sigmoid) {
  check(sigmoid, {kFar, -kFar, kHalfLargest, 0}, {1, 0, 1, 0.5}, {3, 3, 3, 4}, {0, 0, 0, 1});
}

TEST_P(Extremes, Softplus) {
  const double far = row({kFar}).item(), largest = row({kHalfLargest}).item();
  check(softplus, {kFar, -kFar, kHalfLargest, 0}, {far, 0, largest, std::log(2)}, {3, 3, 3, 4}, {3, 0, 3, 2});
}

TEST_P(Extremes, CrossEntropy) {
  const double far = row({kFar}).item();
  const std::vector<Tensor> x = {row({kFar, 0, -kFar})};
  for (int32_t label : {0, 1, 2}) {
    const Function loss = [&](std::span<const Tensor> in) {
      return cross_entropy(in[0], Tensor::from({1}, std::vector<int32_t>{label}, test_backend()));
    };
    const Tensor value = loss(x);
    expect(value, {label * far});
    std::vector<double> gradient = {1, 0, 0};
    gradient[static_cast<size_t>(label)] -= 1;
    expect(vjp(loss, x, value.full_like(1.0)).second[0], gradient);
  }
}

// Scores of 2e4 and more either way: each query takes the value of the one key that fits.
TEST_P(Extremes, Attention) {
  const auto sequence = [](const std::vector<double>& numbers, int64_t width) {
    return Tensor::from({1, static_cast<int64_t>(numbers.size()) / width, width}, numbers, test_backend())
        .converted(GetParam());
  };
  for (const bool causal : {false, true}) {
    const std::vector<Tensor> x = {sequence({200, -200}, 1), sequence({200, -200}, 1), sequence({3, 5}, 1)};
    const Function function = [&](std::span<const Tensor> in) {
      return attention(in[0], in[1], in[2], 1, causal);
    };
    const auto [y, gradient] = vjp(function, x, sequence({2, 7}, 1));
    expect(y, {3, 5});
    expect(gradient[0], {0, 0});
    expect(gradient[1], {0, 0});
    expect(gradient[2], {2, 7});
  }
  // One key is seen whatever its score.
  const std::vector<Tensor> one = {sequence({kFar, -kFar}, 2), sequence({kFar, kFar}, 2),
                                   sequence({3, 5}, 2)};
  const Function alone = [](std::span<const Tensor> in) { return attention(in[0], in[1], in[2], 1, true); };
  const auto [y, gradient] = vjp(alone, one, sequence({2, 7}, 2));
  expect(y, {3, 5});
  expect(gradient[0], {0, 0});
  expect(gradient[2], {2, 7});
}

TEST_P(Extremes, LogisticLoss) {
  const double far = row({kFar}).item();
  const std::vector<Tensor> x = {
      Tensor::from({4}, std::vector<double>{kFar, kFar, -kFar, -kFar}, test_backend()).converted(GetParam())};
  const Tensor targets = Tensor::from({4}, std::vector<double>{1, 0, 1, 0}, test_backend())
                             .converted(accumulation_type(GetParam()));
  const Function loss = [&](std::span<const Tensor> in) { return logistic_loss(in[0], targets); };
  const Tensor value = loss(x);
  expect(value, {0, far, far, 0});
  expect(vjp(loss, x, value.full_like(1.0)).second[0], {0, 1, -1, 0});
}

INSTANTIATE_TEST_SUITE_P(Precisions, Extremes,
                         testing::Values(DType::kF64, DType::kF32, DType::kBF16, DType::kF16),
                         [](const auto& row) { return std::string(name_of(row.param)); });

}  // namespace
}  // namespace lockstep::test
