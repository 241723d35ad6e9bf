// A head's losses a few rows at a time against those of its whole logits.
#include "lockstep/ops/class_head.h"

#include <gtest/gtest.h>

#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/reduction.h"
#include "lockstep/tensor/storage.h"
#include "ops/derivative_check.h"

namespace lockstep::test {
namespace {

constexpr int64_t kRows = 10 * kHeadRows + 70, kClasses = 11, kFeatures = 6;

Tensor labels_of(int64_t rows) {
  std::vector<int32_t> labels(static_cast<size_t>(rows));
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int32_t>(i * 7 % kClasses);
  return Tensor::from({rows}, labels, test_backend());
}

TEST(ClassHead, ChunksGiveTheLossesAndGradientsOfTheWhole) {
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    const double bound = dtype == DType::kF64 ? 1e-12 : 2e-5;
    const std::vector<Tensor> inputs = {random_tensor({kRows, kFeatures}, -1.0, 1.0, 1, dtype),
                                        random_tensor({kClasses, kFeatures}, -1.0, 1.0, 2, dtype)};
    const Tensor labels = labels_of(kRows), weights = random_tensor({kRows}, 0.0, 2.0, 3, dtype);
    const Function whole = [&](std::span<const Tensor> in) {
      return cross_entropy(matmul(in[0], in[1], false, true), labels, weights);
    };
    const Function chunked = [&](std::span<const Tensor> in) {
      return head_losses({in[0], in[1]}, labels, weights);
    };
    const Tensor cotangent = random_tensor({kRows}, -1.0, 1.0, 4, dtype);
    const auto [expected, expected_gradients] = vjp(whole, inputs, cotangent);
    const auto [found, gradients] = vjp(chunked, inputs, cotangent);
    EXPECT_LE(largest_error(found, expected), bound);
    for (size_t i = 0; i < 2; ++i) EXPECT_LE(largest_error(gradients[i], expected_gradients[i]), bound) << i;
  }
}

// Known beforehand or not, and where another one comes than was announced.
TEST(ClassHead, GradientsAtAKnownCotangentHaveTheSameBits) {
  const Tensor labels = labels_of(kRows);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<Tensor> inputs = {random_tensor({kRows, kFeatures}, -1.0, 1.0, 1, dtype),
                                        random_tensor({kClasses, kFeatures}, -1.0, 1.0, 2, dtype)};
    const Tensor weights = random_tensor({kRows}, 0.0, 2.0, 3, DType::kF32);
    const Tensor cotangent = random_tensor({kRows}, -1.0, 1.0, 4, DType::kF32);
    const Tensor other = random_tensor({kRows}, -1.0, 1.0, 5, DType::kF32);
    for (const bool capped : {false, true}) {
      const ClassHead head{inputs[0], inputs[1], capped ? 1.5 : 0.0, capped ? 0.1 : 0.0};
      const auto with = [&](const Tensor& known) {
        return vjp(
            [&](std::span<const Tensor> in) {
              return head_losses({in[0], in[1], head.soft_cap, head.z_loss}, labels, weights, known);
            },
            inputs, cotangent);
      };
      const auto [expected, expected_gradients] = with({});
      for (const Tensor& known : {cotangent, other}) {
        const auto [found, gradients] = with(known);
        EXPECT_EQ(found.to_vector<float>(), expected.to_vector<float>());
        for (size_t i = 0; i < 2; ++i)
          EXPECT_EQ(gradients[i].to_vector<float>(), expected_gradients[i].to_vector<float>()) << i;
      }
    }
  }
}

TEST(ClassHead, ShowsTheLogitsInTheOrderOfTheRows) {
  const Tensor x = random_tensor({kRows, kFeatures}, -1.0, 1.0, 1, DType::kF32);
  const Tensor table = random_tensor({kClasses, kFeatures}, -1.0, 1.0, 2, DType::kF32);
  const ClassHead head{x, table, 1.5};
  std::vector<float> seen;
  const Tensor losses = head_losses(head, labels_of(kRows), {}, [&](const Tensor& logits) {
    const std::vector<float> values = logits.to_vector<float>();
    seen.insert(seen.end(), values.begin(), values.end());
  });
  EXPECT_EQ(losses.to_vector<float>(), head_losses(head, labels_of(kRows)).to_vector<float>());
  EXPECT_EQ(seen, head_logits(head).to_vector<float>());
}

TEST(ClassHead, RoundsNothingBut16BitOperands) {
  const Tensor x = random_tensor({kRows, kFeatures}, -1.0, 1.0, 1, DType::kBF16);
  const Tensor table = random_tensor({kClasses, kFeatures}, -1.0, 1.0, 2, DType::kBF16);
  const Tensor losses = head_losses({x, table}, labels_of(kRows));
  ASSERT_EQ(losses.dtype(), DType::kF32);
  const Tensor wide = head_losses({x.converted(DType::kF64), table.converted(DType::kF64)}, labels_of(kRows));
  EXPECT_LE(largest_error(losses.converted(DType::kF64), wide), 1e-5);
}

TEST(ClassHead, NeverHoldsTheLogitsOfAllRows) {
  constexpr int64_t kMany = 32 * kHeadRows, kWide = 300;
  const std::vector<Tensor> inputs = {random_tensor({kMany, 2}, -1.0, 1.0, 1, DType::kF32),
                                      random_tensor({kWide, 2}, -1.0, 1.0, 2, DType::kF32)};
  const Tensor labels = labels_of(kMany);
  reset_allocator_peak();
  const size_t before = allocator_statistics().bytes_in_use;
  vjp(
      [&](std::span<const Tensor> in) {
        return head_losses({in[0], in[1]}, labels);
      },
      inputs, Tensor::full({kMany}, DType::kF32, test_backend(), 1.0));
  EXPECT_LT(allocator_statistics().peak_bytes - before, size_t{kMany * kWide * 4} / 2);
}

TEST(ClassHead, RefusesWhatDoesNotFit) {
  const Tensor x = random_tensor({4, 3}, -1.0, 1.0, 1), table = random_tensor({5, 3}, -1.0, 1.0, 2);
  const auto labels = [](const std::vector<int32_t>& values) {
    return Tensor::from({static_cast<int64_t>(values.size())}, values, test_backend());
  };
  EXPECT_THROW(head_losses({x, table}, labels({0, 1, 2})), Error);
  EXPECT_THROW(head_losses({x, table}, labels({0, 1, 2, 5})), Error);
  EXPECT_THROW(head_losses({x, random_tensor({5, 4}, -1.0, 1.0, 2)}, labels({0, 1, 2, 3})), Error);
  EXPECT_THROW(head_losses({x, table}, labels({0, 1, 2, 3}), random_tensor({3}, 0.0, 1.0, 3)), Error);
}

}  // namespace
}  // namespace lockstep::test
