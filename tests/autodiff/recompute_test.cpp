// Recomputation: the bits of the plain run, in less memory.
#include "lockstep/autodiff/recompute.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "autodiff/wave.h"
#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/dropout.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/reduction.h"

namespace lockstep {
namespace {

using testing::wave;

// Whether segments are recomputed or run plainly: the same program otherwise.
Tensor segment(bool again, const Function& f, const Tensor& x) {
  return again ? recompute(f, {&x, 1}) : f({&x, 1});
}

struct Swept {
  std::vector<int> order;  // of finished leaves
  std::vector<std::vector<float>> gradients = std::vector<std::vector<float>>(8);
};

Swept sweep(const Tensor& y) {
  Swept result;
  backward(y, y.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
    result.order.push_back(leaf.index);
    result.gradients[static_cast<size_t>(leaf.index)] = gradient.to_vector<float>();
  });
  return result;
}

// Three segments that share a weight which the first uses twice, with dropout inside and between, and a
// captured activation.
Swept shared_weight(bool again) {
  const Tensor x = variable(wave({6, 5}, 1.0), 0), w = variable(wave({5, 5}, 0.7), 1),
               v = variable(wave({5, 5}, 0.9), 2);
  const RandomScope random(3, 1, 4);
  const Tensor first = segment(
      again, [&](auto in) { return tanh(matmul(dropout(tanh(matmul(in[0], w)), 0.3), w)); }, x);
  const Tensor between = dropout(first, 0.2);
  const Tensor second = segment(
      again, [&](auto in) { return add(dropout(matmul(in[0], v), 0.4), multiply(matmul(first, w), in[0])); },
      between);
  const Tensor third = segment(
      again, [&](auto in) { return multiply(matmul(in[0], w), in[0]); }, second);
  return sweep(sum(dropout(third, 0.1)));
}

TEST(Recompute, GivesTheBitsOfThePlainRunToSharedWeightsInTheSameOrder) {
  const Swept plain = shared_weight(false), again = shared_weight(true);
  EXPECT_EQ(again.gradients, plain.gradients);
  EXPECT_EQ(again.order, plain.order);
  ASSERT_EQ(plain.order.size(), 3u);
}

TEST(Recompute, ReplaysItsDrawsEvenAfterTheScopeHasEnded) {
  const auto gradient = [&](bool again) {
    const Tensor x = variable(wave({400}, 1.0), 0);
    Tensor y;
    {
      const RandomScope random(3, 1, 4);
      y = segment(
          again, [](auto in) { return square(dropout(in[0], 0.5)); }, dropout(x, 0.1));
    }
    const RandomScope other(9, 9, 9);
    return sweep(y).gradients[0];
  };
  EXPECT_EQ(gradient(true), gradient(false));
}

TEST(Recompute, Nests) {
  const auto gradients = [&](bool outer, bool inner) {
    const Tensor x = variable(wave({4, 5}, 1.0), 0), w = variable(wave({5, 5}, 0.7), 1);
    const RandomScope random(1, 2, 3);
    const Tensor y = segment(
        outer,
        [&](auto in) {
          Tensor z = in[0];
          for (int i = 0; i < 3; ++i) {
            z = segment(
                inner, [&](auto a) { return dropout(tanh(matmul(a[0], w)), 0.3); }, z);
          }
          return multiply(z, in[0]);
        },
        x);
    return sweep(y).gradients;
  };
  const auto plain = gradients(false, false);
  EXPECT_EQ(gradients(true, false), plain);
  EXPECT_EQ(gradients(false, true), plain);
  EXPECT_EQ(gradients(true, true), plain);
}

TEST(Recompute, KeepsOneActivationASegment) {
  constexpr int64_t kElements = 1 << 16;
  const auto peak = [&](int length) {
    const Tensor x = variable(Tensor::full({kElements}, DType::kF32, test_backend(), 0.5), 0);
    const size_t before = allocator_statistics().bytes_in_use;
    reset_allocator_peak();
    Tensor y = x;
    for (int done = 0; done < 36; done += length) {
      y = segment(
          length > 1,
          [&](auto in) {
            Tensor z = in[0];
            for (int i = 0; i < length; ++i) z = tanh(z);
            return z;
          },
          y);
    }
    const Tensor cotangent = y.full_like(1.0);
    y = sum(y);
    sweep(y);
    return (allocator_statistics().peak_bytes - before) / (kElements * sizeof(float));
  };
  EXPECT_GE(peak(1), 36u);
  // Six inputs, six activations of one segment, and what the sweep holds.
  EXPECT_LE(peak(6), 6u + 6u + 4u);
  EXPECT_LT(peak(6), peak(2));
  EXPECT_LT(peak(6), peak(18));
}

TEST(Recompute, LeavesNothingBehindWhenTheSweepIsOver) {
  const Tensor x = variable(Tensor::full({1 << 12}, DType::kF32, test_backend(), 0.5), 0);
  const size_t before = allocator_statistics().bytes_in_use;
  {
    Tensor y = recompute([](auto in) { return square(tanh(in[0])); }, {&x, 1});
    y = sum(recompute([](auto in) { return square(tanh(in[0])); }, {&y, 1}));
    sweep(y);
  }
  EXPECT_EQ(allocator_statistics().bytes_in_use, before);
}

TEST(Recompute, HasDerivativesOfEveryOrderAndForwardMode) {
  const std::vector<Tensor> at = {Tensor::from({3}, std::vector<double>{0.3, -0.8, 1.1}, test_backend()),
                                  Tensor::from({3}, std::vector<double>{0.5, 0.9, -0.2}, test_backend())};
  const std::vector<Tensor> along = {Tensor::from({3}, std::vector<double>{1.0, 0.4, -2.0}, test_backend()),
                                     Tensor::from({3}, std::vector<double>{-0.7, 0.1, 3.0}, test_backend())};
  const auto function = [](bool again) {
    return [again](std::span<const Tensor> in) {
      const Tensor w = in[1];
      const Tensor y = segment(
          again, [w](auto x) { return tanh(multiply(exp(x[0]), w)); }, in[0]);
      return sum(multiply(segment(
                              again, [w](auto x) { return add(square(x[0]), w); }, y),
                          in[0]));
    };
  };
  const Function plain = function(false), again = function(true);
  for (size_t i = 0; i < at.size(); ++i) {
    EXPECT_EQ(grad(again, at)[i].to_vector<double>(), grad(plain, at)[i].to_vector<double>());
    EXPECT_EQ(grad(again, at, true)[i].to_vector<double>(), grad(plain, at, true)[i].to_vector<double>());
  }
  EXPECT_EQ(jvp(again, at, along).second.item(), jvp(plain, at, along).second.item());
  // Nodes of a recorded sweep are as old as their making, so higher derivatives add up in another order.
  const auto same = [](const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      const auto u = a[i].to_vector<double>(), v = b[i].to_vector<double>();
      for (size_t j = 0; j < u.size(); ++j) EXPECT_NEAR(u[j], v[j], 1e-13 * std::abs(v[j]));
    }
  };
  same(hvp(again, at, along), hvp(plain, at, along));
  const SecondDerivative second(again, at);
  for (int product = 0; product < 2; ++product) {
    const std::vector<Tensor> found = second.times(along), expected = hvp(again, at, along);
    for (size_t i = 0; i < at.size(); ++i)
      EXPECT_EQ(found[i].to_vector<double>(), expected[i].to_vector<double>());
  }
  // Twice through the sweep: gradient of a function of the gradient.
  const auto twice = [](const Function& f) {
    return [f](std::span<const Tensor> in) { return sum(square(grad(f, in, true)[0])); };
  };
  same(grad(twice(again), at), grad(twice(plain), at));
}

// Nodes that are made for a rerun are gone after it: the next ones lie where they lay.
TEST(Recompute, OfGradientsThroughFusedOpsHasTheTangentsOfThePlainRun) {
  const auto numbers = [](const Shape& shape, double factor) {
    return wave(shape, factor).converted(DType::kF64);
  };
  const Tensor w = numbers({5, 5}, 0.7), b = numbers({5}, 0.3), x = numbers({6, 5}, 1.0),
               along = numbers({6, 5}, 0.5);
  const Function cubes = [&](std::span<const Tensor> in) {
    const Tensor y = linear(in[0], w, b, Activation::kNone);
    return sum(multiply(square(y), y));
  };
  const Function slope = [&](std::span<const Tensor> in) {
    return scale(grad(cubes, std::array{in[0]}, true)[0], 0.5);
  };
  const auto chain = [&](bool again) -> Function {
    return [&slope, again](std::span<const Tensor> in) {
      Tensor y = in[0];
      for (int i = 0; i < 4; ++i) y = segment(again, slope, y);
      return y;
    };
  };
  const std::vector<double> plain = jvp(chain(false), {&x, 1}, {&along, 1}).second.to_vector<double>();
  const std::vector<double> again = jvp(chain(true), {&x, 1}, {&along, 1}).second.to_vector<double>();
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(again[i], plain[i], 1e-12 * std::abs(plain[i]));
}

TEST(Recompute, StopsAtTheTargetsThatAreAskedFor) {
  const Tensor x = variable(wave({4}, 1.0), 0), w = variable(wave({4}, 0.5), 1);
  const auto gradient = [&](bool again) {
    const Tensor middle = segment(
        again, [&](auto in) { return multiply(tanh(in[0]), w); }, x);
    const Tensor y = sum(segment(
        again, [&](auto in) { return multiply(square(in[0]), w); }, middle));
    const std::vector<Tensor> targets = {middle};
    return gradients(y, y.full_like(1.0), targets, false)[0].to_vector<float>();
  };
  EXPECT_EQ(gradient(true), gradient(false));
}

TEST(Recompute, OfWhatNeedsNoDerivativeIsThePlainResult) {
  const Tensor x = wave({4}, 1.0);
  int calls = 0;
  const Function f = [&](std::span<const Tensor> in) {
    ++calls;
    return tanh(in[0]);
  };
  EXPECT_EQ(recompute(f, {&x, 1}).node(), nullptr);
  const Tensor leaf = variable(x, 0);
  {
    const RecordingScope off(false);
    EXPECT_EQ(recompute(f, {&leaf, 1}).node(), nullptr);
  }
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(recompute([](auto in) { return in[0]; }, {&leaf, 1}).node(), leaf.node());
}

TEST(Recompute, OfAFunctionThatChangesIsAnError) {
  const Tensor x = variable(wave({4}, 1.0), 0);
  bool first = true;
  const Tensor y = recompute(
      [&](auto in) {
        const Tensor result = first ? tanh(in[0]) : in[0].detach();
        first = false;
        return result;
      },
      {&x, 1});
  EXPECT_THROW(sweep(y), Error);
}

}  // namespace
}  // namespace lockstep
