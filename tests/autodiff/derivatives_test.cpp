// The sweeps: accumulation, order, targets, nesting, memory.
#include "autodiff/derivatives.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autodiff/random_scope.h"
#include "core/error.h"
#include "device.h"
#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/reduction.h"

namespace lockstep {
namespace {

Tensor vector_of(const std::vector<double>& values) {
  return Tensor::from({static_cast<int64_t>(values.size())}, values, test_backend());
}
double only(const Tensor& x) { return x.item(); }

TEST(Gradient, OfAnExampleByHand) {
  // f = x y + x at (2, 3): df/dx = y + 1, df/dy = x.
  const std::vector<Tensor> at = {vector_of({2.0}), vector_of({3.0})};
  const auto [value, g] = value_and_grad([](auto in) { return add(multiply(in[0], in[1]), in[0]); }, at);
  EXPECT_EQ(only(value), 8.0);
  EXPECT_EQ(only(g[0]), 4.0);
  EXPECT_EQ(only(g[1]), 2.0);
}

TEST(Gradient, OfAnInputThatDoesNotMatterIsZero) {
  const std::vector<Tensor> at = {vector_of({2.0, 1.0}), vector_of({3.0})};
  const auto g = grad([](auto in) { return sum(square(in[0])); }, at);
  EXPECT_EQ(g[1].to_vector<double>(), std::vector<double>{0.0});
  EXPECT_EQ(g[0].to_vector<double>(), (std::vector<double>{4.0, 2.0}));
}

TEST(Gradient, AddsUpOverEveryUse) {
  const std::vector<Tensor> at = {vector_of({1.5})};
  const auto g = grad([](auto in) {
    Tensor y = in[0];
    for (int i = 0; i < 4; ++i) y = add(y, multiply(in[0], in[0]));
    return y;
  }, at);
  EXPECT_DOUBLE_EQ(only(g[0]), 1.0 + 4 * 2 * 1.5);
}

TEST(Gradient, NestsToAnyOrder) {
  // d^k/dx^k of x^5 at 2: 80, 160, 240, 240, 120.
  Function f = [](std::span<const Tensor> in) { return multiply(square(square(in[0])), in[0]); };
  const std::vector<double> expected = {80, 160, 240, 240, 120};
  const std::vector<Tensor> at = {vector_of({2.0})};
  for (double value : expected) {
    EXPECT_DOUBLE_EQ(only(grad(f, at)[0]), value);
    f = [f](std::span<const Tensor> in) { return grad(f, in, true)[0]; };
  }
}

TEST(Gradient, NeedsAScalar) {
  const std::vector<Tensor> at = {vector_of({1.0, 2.0})};
  EXPECT_THROW(grad([](auto in) { return square(in[0]); }, at), Error);
}

TEST(HessianVectorProduct, OfAQuadraticIsTheMatrix) {
  const Tensor a = Tensor::from({2, 2}, std::vector<double>{4.0, 1.0, 1.0, 3.0}, test_backend());
  const Function f = [&](std::span<const Tensor> in) {
    return scale(sum(multiply(in[0], matmul(a, in[0]))), 0.5);
  };
  const std::vector<Tensor> at = {Tensor::from({2, 1}, std::vector<double>{0.3, -2.0}, test_backend())};
  const std::vector<Tensor> v = {Tensor::from({2, 1}, std::vector<double>{1.0, 2.0}, test_backend())};
  EXPECT_EQ(hvp(f, at, v)[0].to_vector<double>(), (std::vector<double>{6.0, 7.0}));
}

TEST(Backward, HandsOverEachLeafOnceWhenItsLastContributionHasLanded) {
  const Tensor first = variable(vector_of({2.0}), 0), second = variable(vector_of({3.0}), 1);
  // second is used by the outermost op only, so it is finished long before first.
  Tensor y = square(first);
  y = multiply(add(y, first), second);
  std::vector<int> order;
  backward(y, y.full_like(1.0), [&](const Leaf& leaf, const Tensor& g) {
    order.push_back(leaf.index);
    EXPECT_DOUBLE_EQ(g.item(), leaf.index == 0 ? 3.0 * 5.0 : 6.0);
  });
  EXPECT_EQ(order, (std::vector<int>{1, 0}));
}

TEST(Backward, FreesActivationsAsItPassesThem) {
  const int64_t n = 1 << 16;
  const Tensor x = variable(Tensor::full({n}, DType::kF32, test_backend(), 0.5), 0);
  Tensor y = x;
  for (int i = 0; i < 20; ++i) y = tanh(y);
  const size_t bytes = static_cast<size_t>(n) * 4;
  const size_t before = allocator_statistics().bytes_in_use;
  reset_allocator_peak();
  const Tensor cotangent = y.full_like(1.0);
  backward(y, cotangent, [](const Leaf&, const Tensor&) {});
  // Kept activations would add to the cotangents in flight.
  EXPECT_LE(allocator_statistics().peak_bytes, before + 4 * bytes);
}

TEST(Backward, SurvivesAVeryLongChain) {
  const Tensor x = variable(vector_of({1.0}), 0);
  Tensor y = x;
  for (int i = 0; i < 200000; ++i) y = scale(y, 1.0);
  double g = 0.0;
  backward(y, y.full_like(1.0), [&](const Leaf&, const Tensor& gradient) { g = gradient.item(); });
  EXPECT_EQ(g, 1.0);
  // And so does destroying one that was never swept.
  Tensor z = x;
  for (int i = 0; i < 200000; ++i) z = scale(z, 1.0);
}

TEST(Recording, OffMeansNoHistory) {
  const Tensor x = variable(vector_of({1.0}), 0);
  {
    const RecordingScope off(false);
    EXPECT_EQ(square(x).node(), nullptr);
  }
  EXPECT_NE(square(x).node(), nullptr);
  EXPECT_EQ(square(x.detach()).node(), nullptr);
}

TEST(RandomScope, ReplaysTheSameDrawsAndOnlyThose) {
  const Tensor x = Tensor::full({1000}, DType::kF32, test_backend(), 1.0);
  const auto masks = [&](uint64_t seed, uint32_t step, uint32_t micro_batch) {
    const RandomScope scope(seed, step, micro_batch);
    std::vector<float> first = dropout(x, 0.5).to_vector<float>(), second = dropout(x, 0.5).to_vector<float>();
    EXPECT_NE(first, second) << "two ops of one pass share their draws";
    first.insert(first.end(), second.begin(), second.end());
    return first;
  };
  EXPECT_EQ(masks(1, 2, 3), masks(1, 2, 3));
  EXPECT_NE(masks(1, 2, 3), masks(1, 2, 4));
  EXPECT_NE(masks(1, 2, 3), masks(1, 3, 3));
  EXPECT_NE(masks(1, 2, 3), masks(2, 2, 3));
}

TEST(RandomScope, DrawingOutsideOfOneIsAnError) {
  EXPECT_THROW(dropout(Tensor::full({4}, DType::kF32, test_backend(), 1.0), 0.5), Error);
}

}  // namespace
}  // namespace lockstep
