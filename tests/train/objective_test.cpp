// Losses of micro-batches against the formulas, and counting what is predicted right.
#include "train/objective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "device.h"

namespace lockstep {
namespace {

const DataShape kThreeClasses{{2}, DType::kF32, 3};
const DataShape kTwoClasses{{2}, DType::kF32, 2};
const DataShape kTwoTargets{{2}, DType::kF32, 0, 2};

MicroBatch labelled(std::vector<int32_t> labels, int64_t valid) {
  MicroBatch batch;
  batch.size = static_cast<int64_t>(labels.size());
  batch.valid = valid;
  batch.labels = std::move(labels);
  return batch;
}

Tensor outputs(const Shape& shape, const std::vector<double>& values) {
  return Tensor::from(shape, values, test_backend());
}

Objective objective(const std::string& loss, const DataShape& data) {
  return Objective(loss, data, DType::kF64, test_backend());
}

std::string usage_error(const std::function<void()>& part) {
  try {
    part();
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return "no error";
}

TEST(Objective, ClassesGiveTheNegativeLogProbabilityOfTheLabel) {
  const std::vector<double> logits = {1.0, 2.0, 0.5, -3.0, 0.0, 800.0};
  const std::vector<double> losses = objective("auto", kThreeClasses)
                                         .losses(outputs({2, 3}, logits), labelled({0, 1}, 2))
                                         .to_vector<double>();
  ASSERT_EQ(losses.size(), 2u);
  EXPECT_NEAR(losses[0], std::log(std::exp(1.0) + std::exp(2.0) + std::exp(0.5)) - 1.0, 1e-14);
  EXPECT_NEAR(losses[1], 800.0, 1e-12);
}

TEST(Objective, OneLogitForTwoClassesGivesTheLogisticLoss) {
  const std::vector<double> logits = {0.3, -2.0, 1000.0};
  for (const char* loss : {"auto", "logistic"}) {
    for (const Shape& shape : {Shape{3, 1}, Shape{3}}) {
      const std::vector<double> losses = objective(loss, kTwoClasses)
                                             .losses(outputs(shape, logits), labelled({1, 0, 0}, 3))
                                             .to_vector<double>();
      EXPECT_NEAR(losses[0], std::log1p(std::exp(-0.3)), 1e-14);
      EXPECT_NEAR(losses[1], std::log1p(std::exp(-2.0)), 1e-14);
      EXPECT_NEAR(losses[2], 1000.0, 1e-12);
    }
  }
}

TEST(Objective, TwoLogitsForTwoClassesGiveCrossEntropy) {
  const std::vector<double> losses = objective("auto", kTwoClasses)
                                         .losses(outputs({1, 2}, {0.5, 1.5}), labelled({0}, 1))
                                         .to_vector<double>();
  EXPECT_NEAR(losses[0], std::log1p(std::exp(1.0)), 1e-14);
}

TEST(Objective, RealTargetsGiveTheMeanSquaredErrorOfEachSample) {
  MicroBatch batch;
  batch.size = batch.valid = 2;
  batch.targets = {1.0f, 2.0f, -1.0f, 0.5f};
  const std::vector<double> losses =
      objective("auto", kTwoTargets).losses(outputs({2, 2}, {1.5, 2.0, 1.0, 3.5}), batch).to_vector<double>();
  EXPECT_NEAR(losses[0], 0.125, 1e-15);
  EXPECT_NEAR(losses[1], 6.5, 1e-15);
}

TEST(Objective, PaddingSamplesHaveLossZeroWhateverTheirOutput) {
  const std::vector<double> logits = {1.0, 2.0, 3.0, 5.0, -5.0, 0.0, 1e30, -1e30, 0.0};
  const Objective classes = objective("auto", kThreeClasses);
  const std::vector<double> all =
      classes.losses(outputs({3, 3}, logits), labelled({0, 1, 1}, 3)).to_vector<double>();
  const std::vector<double> padded =
      classes.losses(outputs({3, 3}, logits), labelled({0, 1, 1}, 2)).to_vector<double>();
  EXPECT_GT(all[2], 0.0);
  EXPECT_EQ(padded, (std::vector<double>{all[0], all[1], 0.0}));
  const std::vector<double> none =
      classes.losses(outputs({3, 3}, logits), labelled({0, 1, 1}, 0)).to_vector<double>();
  EXPECT_EQ(none, (std::vector<double>{0.0, 0.0, 0.0}));
}

TEST(Objective, CountsRightPredictionsAmongTheSamplesThatCount) {
  const Tensor logits = outputs({4, 3}, {3, 1, 2, /**/ 0, 5, 1, /**/ 1, 1, 0, /**/ 0, 0, 9});
  const Objective classes = objective("auto", kThreeClasses);
  EXPECT_EQ(classes.correct(logits, labelled({0, 1, 0, 2}, 4)), 4)
      << "of equal logits the first is predicted";
  EXPECT_EQ(classes.correct(logits, labelled({0, 1, 1, 2}, 4)), 3);
  EXPECT_EQ(classes.correct(logits, labelled({0, 2, 0, 2}, 3)), 2) << "the last is padding";
  const Objective two = objective("auto", kTwoClasses);
  EXPECT_EQ(two.correct(outputs({4, 1}, {0.1, -0.1, 0.0, 7.0}), labelled({1, 0, 0, 0}, 4)), 3);
}

TEST(Objective, WhatIsNotANumberPredictsNoClass) {
  const double nan = std::nan("");
  const Tensor logits = outputs({4, 3}, {nan, 1, 2, /**/ 0, nan, 1, /**/ nan, nan, nan, /**/ 5, 1, 0});
  const Objective classes = objective("auto", kThreeClasses);
  EXPECT_EQ(classes.correct(logits, labelled({0, 0, 0, 0}, 4)), 1);
  EXPECT_EQ(classes.correct(logits, labelled({2, 2, 1, 0}, 4)), 1);
  EXPECT_EQ(objective("auto", kTwoClasses).correct(outputs({3, 1}, {nan, nan, -1}), labelled({0, 1, 0}, 3)),
            1);
}

TEST(Objective, InputsHaveTheShapeOfTheDataAndTheTypeOfTheModel) {
  MicroBatch batch;
  batch.size = 2;
  batch.inputs_f32 = {1, 2, 3, 4};
  const Tensor inputs = objective("auto", kTwoClasses).inputs(batch);
  EXPECT_EQ(inputs.shape(), (Shape{2, 2}));
  EXPECT_EQ(inputs.dtype(), DType::kF64);
  EXPECT_EQ(inputs.to_vector<double>(), (std::vector<double>{1, 2, 3, 4}));
  batch.inputs_i32 = {7, 8, 9, 10};
  EXPECT_EQ(objective("auto", {{2}, DType::kI32, 3}).inputs(batch).dtype(), DType::kI32);
}

TEST(Objective, ALossThatDoesNotFitTheDataIsRefused) {
  const auto refusal = [](const std::string& loss, const DataShape& data) {
    return usage_error([&] { objective(loss, data); });
  };
  EXPECT_EQ(refusal("logistic", kThreeClasses), "train.loss: logistic does not fit data with 3 classes");
  EXPECT_EQ(refusal("cross_entropy", kTwoTargets),
            "train.loss: cross_entropy does not fit data with 2 real targets");
  EXPECT_EQ(refusal("mean_squared_error", kTwoClasses),
            "train.loss: mean_squared_error does not fit data with 2 classes");
}

TEST(Objective, AnOutputThatDoesNotFitTheTargetsIsRefused) {
  const auto refusal = [](const std::string& loss, const DataShape& data, const Shape& shape) {
    return usage_error([&] {
      objective(loss, data).losses(Tensor::zeros(shape, DType::kF64, test_backend()), labelled({0, 0}, 2));
    });
  };
  EXPECT_EQ(refusal("auto", kThreeClasses, {2, 4}),
            "model: output (2,4) does not fit 2 samples of 3 classes for loss auto");
  EXPECT_NE(refusal("auto", kThreeClasses, {2}), "no error");
  EXPECT_NE(refusal("auto", kThreeClasses, {3, 3}), "no error");
  EXPECT_NE(refusal("cross_entropy", kTwoClasses, {2, 1}), "no error");
  EXPECT_NE(refusal("logistic", kTwoClasses, {2, 2}), "no error");
}

}  // namespace
}  // namespace lockstep
