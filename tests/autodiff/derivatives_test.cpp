// The sweeps: accumulation, order, targets, nesting, memory.
#include "lockstep/autodiff/derivatives.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <thread>

#include "autodiff/wave.h"
#include "device.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/dropout.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {
namespace {

Tensor vector_of(const std::vector<double>& values) {
  return Tensor::from({static_cast<int64_t>(values.size())}, values, test_backend());
}
double only(const Tensor& x) {
  return x.item();
}

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
  const auto g = grad(
      [](auto in) {
        Tensor y = in[0];
        for (int i = 0; i < 4; ++i) y = add(y, multiply(in[0], in[0]));
        return y;
      },
      at);
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

TEST(Backward, FreesWhatOnlyTheRootKeeps) {
  // The caller holds the root; what it keeps for its derivative is as large as the logits.
  const int64_t rows = 256, classes = 256;
  const Tensor logits = variable(Tensor::full({rows, classes}, DType::kF32, test_backend(), 0.5), 0);
  const Tensor labels =
      Tensor::from({rows}, std::vector<int32_t>(static_cast<size_t>(rows), 3), test_backend());
  const size_t before = allocator_statistics().bytes_in_use;
  const Tensor losses = cross_entropy(logits, labels);
  EXPECT_GT(allocator_statistics().bytes_in_use, before + logits.bytes());
  backward(losses, losses.full_like(1.0), [](const Leaf&, const Tensor&) {});
  EXPECT_LT(allocator_statistics().bytes_in_use, before + logits.bytes());
}

// y = x, whose derivative reads x without having said so.
class ForgetfulNode final : public Node {
 public:
  const char* name() const override { return "forgetful"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    result[0] = multiply(cotangent, inputs[0]);
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override { return tangents[0]; }
};

std::string internal_error(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kInternal ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return "no error";
}

TEST(Saved, ReadingWhatWasNotKeptIsAnErrorThatNamesTheOp) {
  const Tensor x = variable(vector_of({2.0, 3.0}), 0);
  const Tensor y = record<ForgetfulNode>(x.clone(), {&x});
  const std::string message =
      internal_error([&] { gradients(y, y.full_like(1.0), std::vector<Tensor>{x}, false); });
  EXPECT_NE(message.find("forgetful (backward): elements of a tensor (2) fp64 that were not kept are read"),
            std::string::npos)
      << message;
}

TEST(Saved, ArraysLiveAsLongAsADerivativeReadsThem) {
  const int64_t n = 1 << 16;
  const Tensor x = variable(Tensor::full({n}, DType::kF32, test_backend(), 0.5), 0);
  const size_t bytes = x.bytes(), before = allocator_statistics().bytes_in_use;
  const auto held_by = [&](const std::function<Tensor()>& f) {
    const Tensor y = f();
    return (allocator_statistics().bytes_in_use - before) / bytes;
  };
  EXPECT_EQ(held_by([&] { return tanh(x); }), 1u);
  EXPECT_EQ(held_by([&] { return scale(add(scale(x, 2.0), x), 3.0); }), 1u) << "of a linear op: nothing";
  EXPECT_EQ(held_by([&] { return scale(square(scale(x, 2.0)), 3.0); }), 2u) << "the argument";
  EXPECT_EQ(held_by([&] { return scale(tanh(scale(x, 2.0)), 3.0); }), 2u) << "the result";
  EXPECT_EQ(held_by([&] { return multiply(scale(x, 2.0), x.detach()); }), 1u)
      << "the other factor of one that has history";
  EXPECT_EQ(held_by([&] {
              const RandomScope random(1, 2, 3);
              return dropout(dropout(x, 0.5), 0.5);
            }),
            1u)
      << "masks are drawn again";
}

// The gradient by one input depends on the others too, whatever was asked for.
TEST(Derivatives, AGradientThroughAFusedOpDependsOnInputsThatNoDerivativeWasAskedOf) {
  const auto numbers = [](const Shape& shape, double factor) {
    return testing::wave(shape, factor).converted(DType::kF64);
  };
  const Tensor x = numbers({3, 4}, 1.0), w = numbers({4, 5}, 0.7), b = numbers({5}, 0.3);
  const auto slope_of_slope = [&](bool fused) {
    const EveryOrderScope every;
    const Tensor at = variable(x, 0), weights = variable(w, 1);
    const Tensor y = fused ? linear(at, weights, b, Activation::kGelu) : gelu(add(matmul(at, weights), b));
    const std::vector<Tensor> first = gradients(sum(square(y)), sum(y).full_like(1.0), std::array{at}, true);
    return gradients(sum(square(first[0])), sum(y).full_like(1.0), std::array{weights}, false)[0]
        .to_vector<double>();
  };
  const std::vector<double> fused = slope_of_slope(true), plain = slope_of_slope(false);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_NE(plain[i], 0.0);
    EXPECT_NEAR(fused[i], plain[i], 1e-11 * std::abs(plain[i]));
  }
}

TEST(Saved, FusedOpsKeepTheirInputsForHigherDerivativesOnlyWhenTold) {
  const Tensor x = variable(Tensor::from({1, 3}, std::vector<double>{0.1, -0.4, 2.0}, test_backend()), 0);
  const std::vector<Tensor> targets = {x};
  const auto slopes = [&](const Tensor& y, bool create_graph) {
    return gradients(y, scale(y.full_like(1.0), 0.5), targets, create_graph)[0].to_vector<double>();
  };
  const Tensor y = multiply(softmax(x), softmax(x));
  const std::string message = internal_error([&] { slopes(y, true); });
  EXPECT_NE(message.find("softmax"), std::string::npos) << message;
  EXPECT_NE(message.find("EveryOrderScope"), std::string::npos) << message;
  const std::vector<double> first = slopes(y, false);
  const EveryOrderScope every;
  const std::vector<double> again = slopes(multiply(softmax(x), softmax(x)), true);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(again[i], first[i], 1e-15);
}

// A loss of two layers whose graph is recorded anew for each call, over parameters that all calls share.
std::vector<std::vector<double>> sweep_once(const std::vector<Tensor>& parameters, double input) {
  const Tensor x = Tensor::full({8, 4}, DType::kF64, test_backend(), input);
  const RandomScope random(1, 2, 3);
  const Tensor y = sum(square(matmul(dropout(tanh(matmul(x, parameters[0])), 0.25), parameters[1])));
  std::vector<std::vector<double>> result(parameters.size());
  backward(y, y.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
    result[static_cast<size_t>(leaf.index)] = gradient.to_vector<double>();
  });
  return result;
}

TEST(Sweeps, OverTheSameParametersRunInTwoThreadsAtOnce) {
  const std::vector<Tensor> parameters = {
      variable(Tensor::full({4, 16}, DType::kF64, test_backend(), 0.25), 0),
      variable(Tensor::full({16, 2}, DType::kF64, test_backend(), -0.5), 1)};
  const auto first = sweep_once(parameters, 0.5), second = sweep_once(parameters, -1.5);
  ASSERT_NE(first, second);
  std::vector<int> wrong(2, 0);
  const auto repeat = [&](size_t thread, double input, const std::vector<std::vector<double>>& expected) {
    for (int i = 0; i < 200; ++i) {
      if (sweep_once(parameters, input) != expected) ++wrong[thread];
    }
  };
  std::thread other([&] { repeat(0, 0.5, first); });
  repeat(1, -1.5, second);
  other.join();
  EXPECT_EQ(wrong, (std::vector<int>{0, 0}));
}

// y = x, whose derivative fails as often as it is told to.
class FailingNode final : public Node {
 public:
  explicit FailingNode(std::shared_ptr<int> failures) : failures_(std::move(failures)) {}
  const char* name() const override { return "failing"; }
  Saved saved() const override { return Saved::nothing(); }
  void vjp(const Tensor&, const Tensor& cotangent, InputGradients& result) const override {
    if ((*failures_)-- > 0) fail(ErrorKind::kInternal, "told to fail");
    result[0] = cotangent;
  }
  Tensor jvp(const Tensor&, std::span<const Tensor> tangents) const override { return tangents[0]; }

 private:
  std::shared_ptr<int> failures_;
};

TEST(Sweeps, ThatFailLeaveNothingBehind) {
  const Tensor x = variable(vector_of({2.0}), 0), w = variable(vector_of({3.0}), 1);
  const auto failures = std::make_shared<int>(1);
  const Tensor middle = multiply(x, w);
  // By the time it fails, w has a contribution from above.
  const Tensor y = multiply(record<FailingNode>(middle.detach(), {&middle}, failures), w);
  const std::vector<Tensor> targets = {x, w, middle};
  const auto sweep = [&] {
    std::vector<double> result;
    for (const Tensor& derivative : gradients(y, y.full_like(1.0), targets, false)) {
      result.push_back(derivative.item());
    }
    return result;
  };
  EXPECT_THROW(sweep(), Error);
  EXPECT_EQ(sweep(), (std::vector<double>{0.0, 6.0, 3.0})) << "the sweep stops at the targets";
  const std::vector<Tensor> leaves = {x, w};
  const auto through = gradients(y, y.full_like(1.0), leaves, false);
  EXPECT_EQ(only(through[0]), 9.0);
  EXPECT_EQ(only(through[1]), 12.0);
}

TEST(Sweeps, RefuseATargetWithoutHistoryAndMarkNoOther) {
  const Tensor x = variable(vector_of({2.0}), 0);
  const Tensor middle = square(x), y = square(middle);
  const std::vector<Tensor> wrong = {middle, vector_of({1.0})}, right = {x};
  EXPECT_THROW(gradients(y, y.full_like(1.0), wrong, false), Error);
  EXPECT_EQ(only(gradients(y, y.full_like(1.0), right, false)[0]), 32.0);
}

TEST(Sweeps, RefuseTangentsThatAreNotOfTheirInputs) {
  const Function f = [](std::span<const Tensor> x) { return multiply(x[0], x[1]); };
  const std::array inputs = {vector_of({1, 2, 3}), vector_of({4, 5, 6})};
  const Tensor fits = inputs[0].full_like(1.0), narrow = fits.converted(DType::kF32),
               longer = vector_of({1, 1, 1, 1});
  EXPECT_EQ(jvp(f, inputs, std::array{fits, fits}).second.to_vector<double>(),
            (std::vector<double>{5, 7, 9}));
  EXPECT_THROW(jvp(f, inputs, std::array{fits}), Error);
  EXPECT_THROW(jvp(f, inputs, std::array{fits, fits, fits}), Error);
  EXPECT_THROW(jvp(f, inputs, std::array{fits, longer}), Error);
  EXPECT_THROW(jvp(f, inputs, std::array{narrow, fits}), Error);
  EXPECT_THROW(jvp(f, inputs, std::array{fits, Tensor()}), Error);
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
    std::vector<float> first = dropout(x, 0.5).to_vector<float>(),
                       second = dropout(x, 0.5).to_vector<float>();
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
