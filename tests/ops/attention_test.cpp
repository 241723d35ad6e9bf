// Attention as an op: its two forms agree, gradients of one array meet, and shapes that do not fit are
// refused.
#include "lockstep/ops/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/movement.h"
#include "ops/derivative_check.h"

namespace lockstep::test {
namespace {

using Inputs = std::span<const Tensor>;

TEST(Attention, OfOneArrayHasTheBitsOfThatOfItsParts) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const bool causal : {false, true}) {
      const std::vector<Tensor> qkv = {random_tensor({2, 9, 36}, -2.0, 2.0, 1, dtype)};
      const Function packed = [&](Inputs x) { return self_attention(x[0], 3, causal); };
      const Function parts = [&](Inputs x) {
        return attention(slice(x[0], 2, 0, 12), slice(x[0], 2, 12, 24), slice(x[0], 2, 24, 36), 3, causal);
      };
      const Tensor u = random_tensor({2, 9, 12}, -2.0, 2.0, 2, dtype);
      const auto [y, gradient] = vjp(packed, qkv, u);
      const auto [expected_y, expected] = vjp(parts, qkv, u);
      EXPECT_EQ(y.to_vector<double>(), expected_y.to_vector<double>());
      EXPECT_EQ(gradient[0].to_vector<double>(), expected[0].to_vector<double>());
    }
  }
}

TEST(Attention, GradientsOfSomeInputsAreThoseOfAll) {
  const Tensor q = random_tensor({2, 3, 4}, -2.0, 2.0, 1), k = random_tensor({2, 5, 4}, -2.0, 2.0, 2),
               v = random_tensor({2, 5, 4}, -2.0, 2.0, 3), u = random_tensor({2, 3, 4}, -2.0, 2.0, 4);
  const std::vector<Tensor> all = {q, k, v};
  const auto expected = vjp([](Inputs x) { return attention(x[0], x[1], x[2], 2); }, all, u).second;
  const std::vector<Tensor> keys = {k};
  const auto found = vjp([&](Inputs x) { return attention(q, x[0], v, 2); }, keys, u).second;
  EXPECT_EQ(found[0].to_vector<double>(), expected[1].to_vector<double>());
}

std::string refusal(const std::function<Tensor()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return "no error";
}

TEST(Attention, ShapesThatDoNotFitAreRefused) {
  const auto zeros = [](const Shape& shape) { return Tensor::zeros(shape, DType::kF32, test_backend()); };
  const Tensor q = zeros({2, 3, 4}), k = zeros({2, 5, 4});
  const auto refused = [&](const Tensor& a, const Tensor& b, const Tensor& c, int64_t heads,
                           bool causal = false) {
    return refusal([&] { return attention(a, b, c, heads, causal); });
  };
  EXPECT_EQ(refused(q, k, k, 2), "no error");
  EXPECT_EQ(refused(q, k, k, 3),
            "attention: q (B,T,C), k and v (B,S,C), heads that divide C expected, got (2,3,4), (2,5,4), "
            "(2,5,4) and 3 "
            "heads");
  EXPECT_THAT(refused(k, q, q, 2, true), testing::HasSubstr("T <= S expected, got (2,5,4), (2,3,4)"));
  EXPECT_THAT(refused(q, k, q, 2), testing::HasSubstr("expected"));
  EXPECT_THAT(refused(q, zeros({1, 5, 4}), zeros({1, 5, 4}), 2), testing::HasSubstr("expected"));
  EXPECT_THAT(refused(q, zeros({2, 0, 4}), zeros({2, 0, 4}), 2), testing::HasSubstr("expected"));
  EXPECT_THAT(refused(zeros({3, 4}), zeros({3, 4}), zeros({3, 4}), 2), testing::HasSubstr("expected"));
  EXPECT_THAT(refused(q, k.converted(DType::kF64), k, 2), testing::HasSubstr("dtypes differ"));
  EXPECT_EQ(refusal([&] {
              return self_attention(zeros({2, 3, 8}), 2);
            }),
            "attention: q, k and v as (B,T,3C), heads that divide C expected, got (2,3,8) and 2 heads");
}

}  // namespace
}  // namespace lockstep::test
