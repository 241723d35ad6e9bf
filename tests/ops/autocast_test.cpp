// Autocast: the table of types, gradients in the type of what they belong to, copies of parameters that are
// never stale.
#include "lockstep/autodiff/autocast.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <optional>

#include "device.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/autodiff/recompute.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/attention.h"
#include "lockstep/ops/cast.h"
#include "lockstep/ops/convolution.h"
#include "lockstep/ops/dropout.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/normalization.h"
#include "lockstep/ops/recurrent.h"
#include "lockstep/ops/reduction.h"
#include "ops/derivative_check.h"

namespace lockstep::test {
namespace {

Tensor values(const Shape& shape, uint64_t stream, DType dtype) {
  return random_tensor(shape, 0.5, 2.0, stream, dtype);
}

struct Row {
  std::optional<OpFamily> family;  // none: not in the table
  const char* name;
  std::function<Tensor(const Tensor&)> apply;  // to (4,4) positive numbers
};

std::vector<Row> rows() {
  using enum OpFamily;
  const auto ones = [](DType dtype) { return Tensor::full({4}, dtype, test_backend(), 1.0); };
  return {
      {kProduct, "matmul", [](const Tensor& x) { return matmul(x, x); }},
      {kProduct, "linear", [=](const Tensor& x) { return linear(x, x, ones(accumulation_type(x.dtype()))); }},
      {kProduct, "convolution",
       [](const Tensor& x) {
         return convolution(reshape(x, {1, 4, 4, 1}), reshape(x, {4, 2, 2, 1}), {}, {});
       }},
      {kProduct, "attention",
       [](const Tensor& x) {
         const Tensor sequence = reshape(x, {1, 4, 4});
         return attention(sequence, sequence, sequence, 2);
       }},
      {kProduct, "self_attention",
       [](const Tensor& x) {
         return self_attention(reshape(slice(x, 0, 0, 3), {1, 2, 6}), 2);
       }},
      {kExponential, "exp", exp},
      {kExponential, "log", log},
      {kExponential, "sqrt", sqrt},
      {kExponential, "square", square},
      {kExponential, "reciprocal", reciprocal},
      {kExponential, "softplus", softplus},
      {kReduction, "sum", [](const Tensor& x) { return sum(x, {0}); }},
      {kReduction, "mean", [](const Tensor& x) { return mean(x, {0}); }},
      {kSoftmax, "softmax", softmax},
      {kSoftmax, "log_softmax", log_softmax},
      {kSoftmax, "log_sum_exp", [](const Tensor& x) { return log_sum_exp(x); }},
      {{},
       "layer_norm",
       [=](const Tensor& x) {
         const Tensor one = ones(accumulation_type(x.dtype()));
         return layer_norm(x, one, one);
       }},
      {{},
       "batch_norm",
       [=](const Tensor& x) {
         const Tensor one = ones(accumulation_type(x.dtype()));
         return batch_norm(x, one, one).y;
       }},
      {{},
       "batch_norm_inference",
       [=](const Tensor& x) {
         const Tensor one = ones(accumulation_type(x.dtype()));
         return batch_norm_inference(x, one, one, one, one);
       }},
      {{}, "negate", negate},
      {{}, "abs", abs},
      {{}, "sign", sign},
      {{}, "relu", relu},
      {{}, "tanh", tanh},
      {{}, "sigmoid", sigmoid},
      {{}, "gelu", gelu},
      {{}, "gelu_tanh", gelu_tanh},
      {{}, "erf", erf},
      {{}, "scale", [](const Tensor& x) { return scale(x, 2.0); }},
      {{},
       "dropout",
       [](const Tensor& x) {
         const RandomScope random(1, 2, 3);
         return dropout(x, 0.5);
       }},
      {kBinary, "add", [](const Tensor& x) { return add(x, x); }},
      {kBinary, "concatenate",
       [](const Tensor& x) {
         return concatenate({x, x}, 0);
       }},
      {{},
       "reshape",
       [](const Tensor& x) {
         return reshape(x, {2, 8});
       }},
      {{}, "transpose", [](const Tensor& x) { return transpose(x); }},
      {{}, "slice", [](const Tensor& x) { return slice(x, 0, 1, 3); }},
      {{},
       "broadcast_to",
       [](const Tensor& x) {
         return broadcast_to(x, {2, 4, 4});
       }},
      {{}, "max", [](const Tensor& x) { return max(x, 1); }},
      {{},
       "average_pool",
       [](const Tensor& x) {
         return average_pool(reshape(x, {1, 4, 4, 1}), 2, 2, {});
       }},
  };
}

TEST(Autocast, EveryOpRunsInTheTypeThatTheTableSays) {
  for (const Row& row : rows()) {
    SCOPED_TRACE(row.name);
    for (DType compute : {DType::kBF16, DType::kF16}) {
      const AutocastScope scope(compute);
      const CastRule rule =
          row.family ? cast_rule(*row.family) : CastRule::kWidest;  // of one operand: itself
      EXPECT_EQ(row.apply(values({4, 4}, 1, compute)).dtype(),
                rule == CastRule::kSingle ? DType::kF32 : compute);
      EXPECT_EQ(row.apply(values({4, 4}, 1, DType::kF32)).dtype(),
                rule == CastRule::kCompute ? compute : DType::kF32);
      EXPECT_EQ(row.apply(values({4, 4}, 1, DType::kF64)).dtype(), DType::kF64) << "fp64 is never lowered";
      const AutocastScope off(DType::kF32);
      EXPECT_EQ(row.apply(values({4, 4}, 1, DType::kF32)).dtype(), DType::kF32);
      EXPECT_EQ(row.apply(values({4, 4}, 1, compute)).dtype(), compute);
    }
  }
}

TEST(Autocast, LossesAreInSinglePrecisionWithAndWithoutIt) {
  const Tensor logits = values({3, 4}, 1, DType::kF16), column = values({3, 1}, 2, DType::kF16);
  const Tensor labels = Tensor::from({3}, std::vector<int32_t>{0, 3, 1}, test_backend());
  const auto check = [&] {
    EXPECT_EQ(cross_entropy(logits, labels).dtype(), DType::kF32);
    EXPECT_EQ(logistic_loss(column, values({3, 1}, 3, DType::kF32)).dtype(), DType::kF32);
    EXPECT_EQ(mean_squared_error(logits, values({3, 4}, 3, DType::kF32)).dtype(), DType::kF32);
  };
  check();
  const AutocastScope scope(DType::kF16);
  check();
}

TEST(Autocast, OperandsOfDifferentTypesMeetInTheWiderAndAreAnErrorWithoutIt) {
  const Tensor low = variable(values({3, 4}, 1, DType::kBF16), 0),
               single = variable(values({4}, 2, DType::kF32), 1);
  EXPECT_THROW(add(low, single), Error);
  EXPECT_THROW(matmul(low, values({4, 2}, 2, DType::kF32)), Error);
  EXPECT_THROW(concatenate({low, values({3, 4}, 2, DType::kF32)}, 0), Error);
  const AutocastScope scope(DType::kBF16);
  const Tensor product = multiply(low, single);
  EXPECT_EQ(product.dtype(), DType::kF32);
  EXPECT_EQ(
      largest_error(product, multiply(low.converted(DType::kF64), single.converted(DType::kF64))) < 1e-7,
      true);
  const std::vector<Tensor> targets = {low, single};
  const auto derivatives =
      gradients(sum(product), Tensor::full({}, DType::kF32, test_backend(), 1.0), targets, false);
  EXPECT_EQ(derivatives[0].dtype(), DType::kBF16);
  EXPECT_EQ(derivatives[1].dtype(), DType::kF32);
  EXPECT_EQ(concatenate({low, values({3, 4}, 2, DType::kF32)}, 0).dtype(), DType::kF32);
  EXPECT_THROW(matmul(low, values({4, 2}, 2, DType::kF64)), Error)
      << "fp64 is neither lowered nor mixed into a product";
}

// The gradient of an fp32 weight is the sum of products of 16-bit numbers, in fp32: as exact as fp32 sums
// are.
TEST(Autocast, GradientsOfSinglePrecisionWeightsAreNeverRoundedToSixteenBits) {
  for (DType compute : {DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(std::string(name_of(compute)));
    const auto exact = [&](const Tensor& x) { return x.converted(compute).converted(DType::kF64); };
    const Tensor x = values({32, 6}, 1, DType::kF32), w = variable(values({6, 5}, 2, DType::kF32), 0),
                 b = variable(values({5}, 3, DType::kF32), 1), u = values({32, 5}, 4, compute);
    std::vector<Tensor> found;
    {
      const AutocastScope scope(compute);
      const std::vector<Tensor> targets = {w, b};
      found = gradients(linear(x, w, b), u, targets, false);
    }
    EXPECT_EQ(found[0].dtype(), DType::kF32);
    EXPECT_EQ(found[1].dtype(), DType::kF32);
    EXPECT_LT(largest_error(found[0], matmul(exact(x), u.converted(DType::kF64), true)), 1e-6);
    EXPECT_LT(largest_error(found[1], sum(u.converted(DType::kF64), {0})), 1e-6);

    const Tensor image = values({2, 5, 5, 3}, 5, DType::kF32),
                 kernel = variable(values({4, 3, 3, 3}, 6, DType::kF32), 0);
    const Tensor v = values({2, 3, 3, 4}, 7, compute);
    Tensor gradient;
    {
      const AutocastScope scope(compute);
      gradient = gradients(convolution(image, kernel, {}, {}), v, {&kernel, 1}, false)[0];
    }
    EXPECT_EQ(gradient.dtype(), DType::kF32);
    const Tensor kernel64 = variable(exact(kernel), 0);
    const Tensor expected = gradients(convolution(exact(image), kernel64, {}, {}), v.converted(DType::kF64),
                                      {&kernel64, 1}, false)[0];
    EXPECT_LT(largest_error(gradient, expected), 1e-6);
  }
}

TEST(Autocast, CopiesAParameterOnceAScopeAndNeverServesAnOldOne) {
  Tensor storage = values({8, 8}, 1, DType::kF32);
  const Tensor w = variable(storage, 0), x = values({2, 8}, 2, DType::kBF16);
  const auto product = [&] { return matmul(x, w).to_vector<double>(); };
  std::vector<double> before;
  {
    const AutocastScope scope(DType::kBF16);
    const void* const first = Operand(w, DType::kBF16).data();
    before = product();
    EXPECT_EQ(Operand(w, DType::kBF16).data(), first);
    const AutocastScope off(DType::kF32);
    EXPECT_EQ(Operand(w, DType::kBF16).data(), first) << "a sweep shares the copies";
    const AutocastScope again(DType::kBF16);
    EXPECT_EQ(Operand(w, DType::kBF16).data(), first) << "a function that is run again shares the copies";
    const AutocastScope other(DType::kF16);
    EXPECT_NE(Operand(w, DType::kF16).data(), first);
  }
  storage.assign(values({8, 8}, 3, DType::kF32));
  const AutocastScope next(DType::kBF16);
  const std::vector<double> after = product();
  EXPECT_NE(after, before);
  EXPECT_EQ(after, matmul(x, w.detach().converted(DType::kBF16)).to_vector<double>());
}

TEST(Autocast, ServesTheCopiesThatTheCallerKeepsAndMakesNoneOfThoseLeaves) {
  const Tensor w = variable(values({8, 8}, 1, DType::kF32), 0),
               other = variable(values({8, 8}, 2, DType::kF32), 1);
  // Not the rounded leaf, so that a product tells what it was computed from.
  const Tensor planted = values({8, 8}, 3, DType::kBF16), x = values({2, 8}, 4, DType::kBF16);
  const AutocastScope::Copies kept{DType::kBF16, {{w.node().get(), {w, planted}}}};
  const auto expected = matmul(x, planted).to_vector<double>();
  {
    const AutocastScope outer(DType::kBF16);
    const void* const rounded = Operand(w, DType::kBF16).data();
    EXPECT_NE(rounded, planted.data());
    const AutocastScope scope(DType::kBF16, &kept);
    reset_allocator_peak();
    const size_t before = allocator_statistics().bytes_in_use;
    EXPECT_EQ(Operand(w, DType::kBF16).data(), planted.data());
    EXPECT_EQ(allocator_statistics().peak_bytes, before) << "nothing is copied";
    EXPECT_EQ(matmul(x, w).to_vector<double>(), expected);
    const void* const made = Operand(other, DType::kBF16).data();
    EXPECT_EQ(Operand(other, DType::kBF16).data(), made) << "the others are copied once";
    const AutocastScope off(DType::kF32);
    EXPECT_EQ(Operand(w, DType::kBF16).data(), planted.data()) << "a sweep shares them";
    const AutocastScope again(DType::kBF16);
    EXPECT_EQ(Operand(w, DType::kBF16).data(), planted.data()) << "a function that is run again shares them";
    EXPECT_EQ(Operand(other, DType::kBF16).data(), made);
  }
  EXPECT_EQ(kept.pairs.size(), 1u);
  // Recomputation and the sweeps: the derivative of the sum of x w is computed with what was planted.
  const Tensor input = variable(values({2, 8}, 5, DType::kF32), 2);
  const Function product = [&](std::span<const Tensor> in) { return matmul(in[0], w); };
  const auto derivative = [&](bool rerun) {
    const AutocastScope scope(DType::kBF16, &kept);
    const Tensor y = rerun ? recompute(product, {&input, 1}) : product({&input, 1});
    return gradients(y, y.full_like(1.0), {&input, 1}, false)[0].to_vector<double>();
  };
  EXPECT_EQ(derivative(true), derivative(false));
  const auto slope = matmul(Tensor::full({2, 8}, DType::kF32, test_backend(), 1.0),
                            planted.converted(DType::kF32), false, true);
  EXPECT_LT(largest_error(Tensor::from({2, 8}, derivative(true), test_backend()), slope), 0.05);
  EXPECT_THROW(AutocastScope(DType::kF16, &kept), Error);
  EXPECT_THROW(AutocastScope(DType::kF32, &kept), Error);
}

struct Swept {
  std::vector<double> loss;
  std::vector<std::vector<double>> gradients;
  bool operator==(const Swept&) const = default;
};

// Two layers with everything that changes types between them; the sweep inside or after the scope, recomputed
// or not.
Swept small_model(DType compute, bool sweep_inside, bool again) {
  const Tensor x = values({6, 8}, 1, DType::kF32), w = variable(values({8, 8}, 2, DType::kF32), 0),
               gamma = variable(values({8}, 3, DType::kF32), 1),
               v = variable(values({8, 4}, 4, DType::kF32), 2);
  const Tensor labels = Tensor::from({6}, std::vector<int32_t>{0, 3, 1, 2, 2, 0}, test_backend());
  const RandomScope random(4, 5, 6);
  std::optional<AutocastScope> scope(std::in_place, compute);
  const Function hidden = [&](std::span<const Tensor> in) {
    return dropout(tanh(layer_norm(linear(in[0], w, gamma, Activation::kRelu), gamma, gamma)), 0.25);
  };
  const Tensor h = again ? recompute(hidden, {&x, 1}) : hidden({&x, 1});
  const Tensor losses = cross_entropy(add(matmul(h, v), matmul(softmax(h), v)), labels);
  if (!sweep_inside) scope.reset();
  Swept result{losses.to_vector<double>(), std::vector<std::vector<double>>(3)};
  backward(losses, losses.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
    EXPECT_EQ(gradient.dtype(), DType::kF32);
    result.gradients[static_cast<size_t>(leaf.index)] = gradient.to_vector<double>();
  });
  return result;
}

TEST(Autocast, SweepsAndRecomputationGiveTheSameBitsInsideAndOutsideOfTheScope) {
  for (DType compute : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Swept expected = small_model(compute, true, false);
    EXPECT_EQ(small_model(compute, false, false), expected);
    EXPECT_EQ(small_model(compute, true, true), expected);
    EXPECT_EQ(small_model(compute, false, true), expected);
  }
  EXPECT_FALSE(small_model(DType::kBF16, true, false) == small_model(DType::kF32, true, false));
}

TEST(Cast, RoundsOnceAndGivesTheDerivativeBack) {
  const Tensor x =
      variable(Tensor::from({3}, std::vector<float>{1.00390625f, -3.0f, 1e-3f}, test_backend()), 0);
  const Tensor y = cast(x, DType::kBF16);
  EXPECT_EQ(y.to_vector<double>()[0], 1.0) << "a tie goes to the even neighbour";
  const Tensor u =
      Tensor::from({3}, std::vector<float>{2.0f, 3.0f, 4.0f}, test_backend()).converted(DType::kBF16);
  const Tensor gradient = gradients(y, u, {&x, 1}, false)[0];
  EXPECT_EQ(gradient.dtype(), DType::kF32);
  EXPECT_EQ(gradient.to_vector<float>(), (std::vector<float>{2.0f, 3.0f, 4.0f}));
  EXPECT_EQ(cast(x, DType::kF32).node(), x.node());
  EXPECT_THROW(cast(x, DType::kI32), Error);
}

}  // namespace
}  // namespace lockstep::test
