// Losses of micro-batches against the formulas, and counting what is predicted right.
#include "lockstep/train/objective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/nn/gpt.h"

namespace lockstep {
namespace {

const DataShape kThreeClasses{{2}, DType::kF32, 3};
const DataShape kTwoClasses{{2}, DType::kF32, 2};
const DataShape kTwoTargets{{2}, DType::kF32, 0, 2};

MicroBatch labelled(const std::vector<int32_t>& labels, int64_t valid) {
  MicroBatch batch(std::ssize(labels), {{kTargetsName, DType::kI32, {}}});
  batch.valid = valid;
  std::ranges::copy(labels, batch.values<int32_t>(kTargetsName).begin());
  return batch;
}

Batch on_device(const MicroBatch& batch) {
  return to_device(batch, DType::kF64, test_backend());
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
                                         .losses(outputs({2, 3}, logits), on_device(labelled({0, 1}, 2)))
                                         .to_vector<double>();
  ASSERT_EQ(losses.size(), 2u);
  EXPECT_NEAR(losses[0], std::log(std::exp(1.0) + std::exp(2.0) + std::exp(0.5)) - 1.0, 1e-14);
  EXPECT_NEAR(losses[1], 800.0, 1e-12);
}

TEST(Objective, OneLogitForTwoClassesGivesTheLogisticLoss) {
  const std::vector<double> logits = {0.3, -2.0, 1000.0};
  for (const char* loss : {"auto", "logistic"}) {
    for (const Shape& shape : {Shape{3, 1}, Shape{3}}) {
      const std::vector<double> losses =
          objective(loss, kTwoClasses)
              .losses(outputs(shape, logits), on_device(labelled({1, 0, 0}, 3)))
              .to_vector<double>();
      EXPECT_NEAR(losses[0], std::log1p(std::exp(-0.3)), 1e-14);
      EXPECT_NEAR(losses[1], std::log1p(std::exp(-2.0)), 1e-14);
      EXPECT_NEAR(losses[2], 1000.0, 1e-12);
    }
  }
}

TEST(Objective, TwoLogitsForTwoClassesGiveCrossEntropy) {
  const std::vector<double> losses = objective("auto", kTwoClasses)
                                         .losses(outputs({1, 2}, {0.5, 1.5}), on_device(labelled({0}, 1)))
                                         .to_vector<double>();
  EXPECT_NEAR(losses[0], std::log1p(std::exp(1.0)), 1e-14);
}

TEST(Objective, RealTargetsGiveTheMeanSquaredErrorOfEachSample) {
  Batch batch;
  batch.tensors.set(kTargetsName, outputs({2, 2}, {1.0, 2.0, -1.0, 0.5}));
  const std::vector<double> losses =
      objective("auto", kTwoTargets).losses(outputs({2, 2}, {1.5, 2.0, 1.0, 3.5}), batch).to_vector<double>();
  EXPECT_NEAR(losses[0], 0.125, 1e-15);
  EXPECT_NEAR(losses[1], 6.5, 1e-15);
}

TEST(Objective, PaddingSamplesHaveLossZeroWhateverTheirOutput) {
  const std::vector<double> logits = {1.0, 2.0, 3.0, 5.0, -5.0, 0.0, 1e30, -1e30, 0.0};
  const Objective classes = objective("auto", kThreeClasses);
  const std::vector<double> all =
      classes.losses(outputs({3, 3}, logits), on_device(labelled({0, 1, 1}, 3))).to_vector<double>();
  const std::vector<double> padded =
      classes.losses(outputs({3, 3}, logits), on_device(labelled({0, 1, 1}, 2))).to_vector<double>();
  EXPECT_GT(all[2], 0.0);
  EXPECT_EQ(padded, (std::vector<double>{all[0], all[1], 0.0}));
  const std::vector<double> none =
      classes.losses(outputs({3, 3}, logits), on_device(labelled({0, 1, 1}, 0))).to_vector<double>();
  EXPECT_EQ(none, (std::vector<double>{0.0, 0.0, 0.0}));
}

int64_t correct(const Objective& objective, const Tensor& output, const MicroBatch& batch) {
  Objective::Counts counts;
  objective.count(output, batch, counts);
  return counts.correct;
}

TEST(Objective, CountsRightPredictionsAmongTheSamplesThatCount) {
  const Tensor logits = outputs({4, 3}, {3, 1, 2, /**/ 0, 5, 1, /**/ 1, 1, 0, /**/ 0, 0, 9});
  const Objective classes = objective("auto", kThreeClasses);
  EXPECT_EQ(correct(classes, logits, labelled({0, 1, 0, 2}, 4)), 4)
      << "of equal logits the first is predicted";
  EXPECT_EQ(correct(classes, logits, labelled({0, 1, 1, 2}, 4)), 3);
  EXPECT_EQ(correct(classes, logits, labelled({0, 2, 0, 2}, 3)), 2) << "the last is padding";
  const Objective two = objective("auto", kTwoClasses);
  EXPECT_EQ(correct(two, outputs({4, 1}, {0.1, -0.1, 0.0, 7.0}), labelled({1, 0, 0, 0}, 4)), 3);
}

TEST(Objective, WhatIsNotANumberPredictsNoClass) {
  const double nan = std::nan("");
  const Tensor logits = outputs({4, 3}, {nan, 1, 2, /**/ 0, nan, 1, /**/ nan, nan, nan, /**/ 5, 1, 0});
  const Objective classes = objective("auto", kThreeClasses);
  EXPECT_EQ(correct(classes, logits, labelled({0, 0, 0, 0}, 4)), 1);
  EXPECT_EQ(correct(classes, logits, labelled({2, 2, 1, 0}, 4)), 1);
  EXPECT_EQ(correct(objective("auto", kTwoClasses), outputs({3, 1}, {nan, nan, -1}), labelled({0, 1, 0}, 3)),
            1);
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
      objective(loss, data)
          .losses(Tensor::zeros(shape, DType::kF64, test_backend()), on_device(labelled({0, 0}, 2)));
    });
  };
  EXPECT_EQ(refusal("auto", kThreeClasses, {2, 4}),
            "model: output (2,4) does not fit 2 samples of 3 classes for loss auto");
  EXPECT_NE(refusal("auto", kThreeClasses, {2}), "no error");
  EXPECT_NE(refusal("auto", kThreeClasses, {3, 3}), "no error");
  EXPECT_NE(refusal("cross_entropy", kTwoClasses, {2, 1}), "no error");
  EXPECT_NE(refusal("logistic", kTwoClasses, {2, 2}), "no error");
}

TEST(Objective, CountsTheFiveLargestLogitsAndWhichClassIsTakenForWhich) {
  const DataShape seven{{4}, DType::kF32, 7};
  const Objective classes = objective("auto", seven);
  const Tensor logits =
      outputs({3, 7}, {7, 6, 5, 4, 3, 2, 1, /**/ 0, 0, 0, 0, 0, 0, 0, /**/ 1, 2, 3, 4, 5, 6, 7});
  Objective::Counts counts;
  counts.confusion.assign(49, 0);
  classes.count(logits, labelled({4, 5, 1}, 3), counts);
  EXPECT_EQ(counts.in_top, 1) << "the first of equal logits comes first";
  classes.count(logits, labelled({5, 4, 2}, 3), counts);
  EXPECT_EQ(counts.in_top, 3);
  EXPECT_EQ(counts.correct, 0);
  EXPECT_EQ(counts.confusion[4 * 7 + 0], 2);
  EXPECT_EQ(counts.confusion[5 * 7 + 0], 2);
  EXPECT_EQ(counts.confusion[1 * 7 + 6], 1);
  EXPECT_EQ(counts.confusion[2 * 7 + 6], 1);
}

Batch on_device(const std::vector<int32_t>& labels, const std::vector<double>& weights = {}) {
  Batch batch = on_device(labelled(labels, std::ssize(labels)));
  if (!weights.empty()) batch.tensors.set(kWeightsName, outputs({std::ssize(labels)}, weights));
  return batch;
}

// -sum_k q_k log p_k
double cross_entropy_of(const std::vector<double>& z, const std::vector<double>& q) {
  double total = 0.0, loss = 0.0;
  for (const double value : z) total += std::exp(value);
  for (size_t k = 0; k < z.size(); ++k) loss -= q[k] * (z[k] - std::log(total));
  return loss;
}

TEST(Objective, SmoothsLabelsInTrainingAlone) {
  const Objective smooth("auto", kThreeClasses, DType::kF64, test_backend(), {.label_smoothing = 0.3});
  const Tensor logits = outputs({2, 3}, {1.0, 2.0, -1.0, 0.5, 0.0, 3.0});
  const std::vector<double> losses = smooth.losses(logits, on_device({1, 2}, {1.0, 2.0})).to_vector<double>();
  EXPECT_NEAR(losses[0], cross_entropy_of({1.0, 2.0, -1.0}, {0.1, 0.8, 0.1}), 1e-14);
  EXPECT_NEAR(losses[1], 2.0 * cross_entropy_of({0.5, 0.0, 3.0}, {0.1, 0.1, 0.8}), 1e-14);
  const std::vector<double> plain = smooth.plain_losses(logits, on_device({1, 2})).to_vector<double>();
  EXPECT_NEAR(plain[0], cross_entropy_of({1.0, 2.0, -1.0}, {0.0, 1.0, 0.0}), 1e-14);
  const Objective two("auto", kTwoClasses, DType::kF64, test_backend(), {.label_smoothing = 0.3});
  const std::vector<double> single = two.losses(outputs({1, 1}, {0.7}), on_device({1})).to_vector<double>();
  EXPECT_NEAR(single[0], cross_entropy_of({0.0, 0.7}, {0.15, 0.85}), 1e-14);
}

TEST(Objective, WeighsSamplesByTheirClasses) {
  const Objective weighed("auto", kThreeClasses, DType::kF64, test_backend(),
                          {.class_weights = {1.0, 0.0, 2.5}});
  const Tensor logits = outputs({3, 3}, {1, 2, 3, /**/ 3, 2, 1, /**/ 0, 1, 0});
  const Batch batch = on_device({0, 2, 1}, {1.0, 0.5, 1.0});
  const Tensor losses = weighed.losses(logits, batch);
  const std::vector<double> each = losses.to_vector<double>();
  EXPECT_NEAR(each[0], cross_entropy_of({1, 2, 3}, {1, 0, 0}), 1e-14);
  EXPECT_NEAR(each[1], 1.25 * cross_entropy_of({3, 2, 1}, {0, 0, 1}), 1e-14);
  EXPECT_EQ(each[2], 0.0);
  EXPECT_NEAR(weighed.sums(losses, batch).to_vector<double>()[1], 2.25, 1e-15);
  EXPECT_EQ(weighed.weight(labelled({0, 2, 1}, 2)), 3.5);
}

// Two samples of two positions.
MicroBatch at_positions(const std::vector<int32_t>& labels, const std::vector<float>& weights,
                        int64_t valid = 2) {
  MicroBatch batch(2, {{kTargetsName, DType::kI32, {2}}, {kWeightsName, DType::kF32, {2}}});
  batch.valid = valid;
  std::ranges::copy(labels, batch.values<int32_t>(kTargetsName).begin());
  std::ranges::copy(weights, batch.values<float>(kWeightsName).begin());
  return batch;
}

TEST(Objective, EachPositionHasItsLossAndItsWeight) {
  const DataShape data{{2}, DType::kF32, 3, 1, {2}};
  EXPECT_EQ(data.outputs(), 6);
  const Objective classes("auto", data, DType::kF64, test_backend(), {.class_weights = {1.0, 1.0, 3.0}});
  const std::vector<double> logits = {1, 2, 3, /**/ 3, 2, 1, /**/ 0, 1, 0, /**/ 5, 0, 5};
  const MicroBatch batch = at_positions({0, 2, 1, 1}, {0.0f, 0.5f, 2.0f, 1.0f});
  const std::vector<double> expected = {0.0, 1.5 * cross_entropy_of({3, 2, 1}, {0, 0, 1}),
                                        2.0 * cross_entropy_of({0, 1, 0}, {0, 1, 0}),
                                        cross_entropy_of({5, 0, 5}, {0, 1, 0})};
  for (const Shape& shape : {Shape{2, 2, 3}, Shape{2, 6}}) {
    const Tensor losses = classes.losses(outputs(shape, logits), on_device(batch));
    EXPECT_EQ(losses.shape(), (Shape{2, 2}));
    EXPECT_EQ(classes.loss_shape(2), losses.shape());
    const std::vector<double> each = losses.to_vector<double>();
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(each[i], expected[i], 1e-13) << i;
    const std::vector<double> sums = classes.sums(losses, on_device(batch)).to_vector<double>();
    EXPECT_NEAR(sums[0], expected[1] + expected[2] + expected[3], 1e-13);
    EXPECT_EQ(sums[1], 4.5);
  }
  EXPECT_EQ(classes.weight(batch), 4.5);
  Objective::Counts counts;
  counts.confusion.assign(9, 0);
  classes.count(outputs({2, 2, 3}, logits), batch, counts);
  EXPECT_EQ(counts.counted, 3) << "the first counts nothing";
  EXPECT_EQ(counts.correct, 1);
  EXPECT_EQ(counts.confusion, (std::vector<int64_t>{0, 0, 0, 1, 1, 0, 1, 0, 0}));
  EXPECT_EQ(classes.predicted_classes(outputs({2, 2, 3}, logits), 2), (std::vector<int32_t>{2, 0}));
  // Padding takes away what its weights say.
  const MicroBatch padded = at_positions({0, 2, 1, 1}, {0.0f, 0.5f, 2.0f, 1.0f}, 1);
  EXPECT_EQ(classes.weight(padded), 1.5);
  EXPECT_EQ(classes.sums(classes.losses(outputs({2, 6}, logits), on_device(padded)), on_device(padded))
                .to_vector<double>()[1],
            1.5);
  EXPECT_EQ(usage_error([&] {
              classes.losses(outputs({2, 3}, {1, 2, 3, 4, 5, 6}), on_device(batch));
            }),
            "model: output (2,3) does not fit 2 samples of 3 classes at positions (2) for loss auto");
}

TEST(Objective, OneLogitAPositionAndRealTargetsAPosition) {
  const Objective two("auto", {{2}, DType::kF32, 2, 1, {2}}, DType::kF64, test_backend());
  const Batch batch = on_device(at_positions({0, 1, 1, 0}, {1, 1, 0, 1}));
  const std::vector<double> losses = two.losses(outputs({2, 2}, {0.3, -2, 9, 1}), batch).to_vector<double>();
  EXPECT_NEAR(losses[0], std::log1p(std::exp(0.3)), 1e-14);
  EXPECT_NEAR(losses[1], std::log1p(std::exp(2.0)), 1e-14);
  EXPECT_EQ(losses[2], 0.0);
  EXPECT_NEAR(losses[3], std::log1p(std::exp(1.0)), 1e-14);

  const Objective real("auto", {{2}, DType::kF32, 0, 2, {2}}, DType::kF64, test_backend());
  Batch values;
  values.tensors.set(kTargetsName, outputs({1, 2, 2}, {1, 2, 3, 4}));
  values.tensors.set(kWeightsName, outputs({1, 2}, {1, 0.5}));
  const Tensor errors = real.losses(outputs({1, 2, 2}, {1, 4, 0, 5}), values);
  EXPECT_EQ(errors.to_vector<double>(), (std::vector<double>{2.0, 2.5}));
  EXPECT_EQ(errors.shape(), (Shape{1, 2}));
  EXPECT_EQ(real.sums(errors, values).to_vector<double>(), (std::vector<double>{4.5, 1.5}));
}

TEST(Objective, AModelWithAClassHeadHasTheLossesAndCountsOfItsLogits) {
  const DataShape data{{400}, DType::kI32, 9, 1, {400}};
  ParameterStore store;
  GptOptions options;
  options.layers = 1;
  options.width = 8;
  options.heads = 2;
  options.z_loss = 0.1;
  options.deviation = 0.5;
  const std::unique_ptr<Module> model = make_gpt(options, data, ModuleBuilder(store));
  store.allocate(DType::kF64, test_backend(), 3);
  MicroBatch samples(2, {{kInputsName, DType::kI32, {400}},
                         {kTargetsName, DType::kI32, {400}},
                         {kWeightsName, DType::kF32, {400}}});
  samples.valid = 2;
  for (size_t i = 0; i < 800; ++i) {
    samples.values<int32_t>(kInputsName)[i] = static_cast<int32_t>(i * 5 % 9);
    samples.values<int32_t>(kTargetsName)[i] = static_cast<int32_t>(i * 7 % 9);
    samples.values<float>(kWeightsName)[i] = i % 3 == 0 ? 0.0f : 0.5f;
  }
  const Batch batch = on_device(samples);
  const Objective classes("auto", data, DType::kF64, test_backend());
  ForwardContext context = forward_context(store, false);
  const Tensor logits = forward(*model, batch, context);
  const std::vector<double> plain = classes.plain_losses(logits, batch).to_vector<double>();
  Objective::Counts expected, found;
  classes.count(logits, samples, expected);
  const std::vector<double> losses =
      classes.evaluated_losses(*model, batch, samples, context, found).to_vector<double>();
  EXPECT_EQ(classes.plain_losses(*model, batch, context).to_vector<double>(), losses);
  const std::vector<double> trained = classes.losses(*model, batch, context).to_vector<double>();
  ASSERT_EQ(losses.size(), plain.size());
  for (size_t i = 0; i < plain.size(); ++i) {
    ASSERT_NEAR(losses[i], plain[i], 1e-12) << i;
    ASSERT_EQ(trained[i] > losses[i], i % 3 != 0) << i;  // the z-loss is the training's
  }
  EXPECT_EQ(found.counted, 533);
  EXPECT_EQ(found.correct, expected.correct);
  EXPECT_EQ(found.in_top, expected.in_top);

  const Objective smoothed("auto", data, DType::kF64, test_backend(), {.label_smoothing = 0.1});
  EXPECT_NE(
      usage_error([&] { smoothed.losses(*model, batch, context); }).find("train.label_smoothing: not of"),
      std::string::npos);
}

// (targets, 2) has as many elements as one logit for each of 2 positions of so many samples.
TEST(Objective, AClassHeadOfTwoClassesAtTwoPositionsHasTwoLogitsATarget) {
  const DataShape data{{2}, DType::kI32, 2, 1, {2}};
  ParameterStore store;
  GptOptions options;
  options.layers = 1;
  options.width = 8;
  options.heads = 2;
  options.deviation = 0.5;
  const std::unique_ptr<Module> model = make_gpt(options, data, ModuleBuilder(store));
  store.allocate(DType::kF64, test_backend(), 3);
  MicroBatch samples(4, {{kInputsName, DType::kI32, {2}}, {kTargetsName, DType::kI32, {2}}});
  samples.valid = 4;
  for (size_t i = 0; i < 8; ++i) {
    samples.values<int32_t>(kInputsName)[i] = static_cast<int32_t>(i % 3 == 0);
    samples.values<int32_t>(kTargetsName)[i] = static_cast<int32_t>(i % 2);
  }
  const Batch batch = on_device(samples);
  const Objective objective("auto", data, DType::kF64, test_backend());
  ForwardContext context = forward_context(store, false);
  const Tensor logits = forward(*model, batch, context).view({8, 2});
  std::vector<int32_t> predicted;
  Objective::Counts expected, found;
  expected.confusion.assign(4, 0);
  found.confusion.assign(4, 0);
  for (size_t i = 0; i < 8; ++i) {
    const std::vector<double> values = logits.to_vector<double>();
    predicted.push_back(values[2 * i + 1] > values[2 * i] ? 1 : 0);
    expected.correct += predicted[i] == static_cast<int32_t>(i % 2) ? 1 : 0;
    ++expected.confusion[i % 2 * 2 + static_cast<size_t>(predicted[i])];
  }
  objective.evaluated_losses(*model, batch, samples, context, found);
  EXPECT_EQ(found.counted, 8);
  EXPECT_EQ(found.correct, expected.correct);
  EXPECT_EQ(found.confusion, expected.confusion);
  EXPECT_EQ(objective.predicted_classes(logits, 8, Objective::Rows::kTargets), predicted);
}

TEST(Objective, RefusesOptionsThatDoNotFit) {
  const auto error_of = [](const DataShape& data, const ObjectiveOptions& options) {
    try {
      Objective("auto", data, DType::kF64, test_backend(), options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(error_of(kThreeClasses, {.class_weights = {1.0, 2.0}}),
            "train.class_weights: one for each of 3 classes, none negative and not all 0, got [1, 2]");
  EXPECT_NE(error_of(kThreeClasses, {.class_weights = {0.0, 0.0, 0.0}}), "no error");
  EXPECT_NE(error_of(kThreeClasses, {.label_smoothing = 1.0}), "no error");
  EXPECT_EQ(error_of({{4}, DType::kF32, 0, 2}, {.label_smoothing = 0.1}),
            "train.label_smoothing: in [0, 1), of classes: got 0.1 with 2 real targets (train.loss = "
            "\"mean_squared_error\")");
  EXPECT_EQ(error_of({{4}, DType::kF32, 0, 2}, {.class_weights = {1.0, 2.0}}),
            "train.class_weights: of classes: got [1, 2] with 2 real targets (train.loss = "
            "\"mean_squared_error\")");
}

}  // namespace
}  // namespace lockstep
