// Weights that take each other's place: initial ones, averaged ones, those that a failure leaves behind.
#include <cmath>
#include <cstring>
#include <limits>

#include "lockstep/core/error.h"
#include "lockstep/data/data_source.h"
#include "lockstep/data/loader.h"
#include "lockstep/data/prepared_file.h"
#include "lockstep/nn/batch_norm.h"
#include "lockstep/nn/sequential.h"
#include "lockstep/train/agreement.h"
#include "train/small_job.h"

namespace lockstep {
namespace {

using testing::bytes_of;

// A linear layer, its running statistics, and one that gives the logits.
std::unique_ptr<Module> normed(const DataShape& data, const ModuleBuilder& builder) {
  return make_sequential({linear_layer(3, {.bias = false}), batch_norm_layer(), linear_layer(2)}, data,
                         builder);
}

// Fails where it is told to.
class Failing final : public Module {
 public:
  enum class Where { kNowhere, kTraining, kEvaluation };
  Failing(std::unique_ptr<Module> module, const Where& where) : module_(std::move(module)), where_(where) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    if (where_ == (context.training ? Where::kTraining : Where::kEvaluation))
      fail(ErrorKind::kData, "the test");
    return module_->forward(x, context);
  }

 private:
  std::unique_ptr<Module> module_;
  const Where& where_;
};

class WeightsTest : public testing::SmallJobTest {
 protected:
  TrainingJob normed_job(const std::string& output, AverageSettings::Type average) const {
    TrainingJob made = job(output);
    made.settings.average.type = average;
    made.model = normed;
    return made;
  }
  // As it is before the first step.
  State start_of(TrainingJob made, const TrainOptions& options = {}) {
    const std::string output = made.settings.output;
    Trainer trainer(std::move(made), options, *self_);
    trainer.save();
    trainer.finish();
    return read_checkpoint(output + "/step-000000000.h5");
  }
  static std::vector<float> floats(const State& state, const std::string& path) {
    const std::vector<std::byte>& bytes = bytes_of(state, path);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  static const std::vector<std::string>& parameter_names() {
    static const std::vector<std::string> names = {"layers.0.weight", "layers.1.gamma", "layers.1.beta",
                                                   "layers.2.weight", "layers.2.bias"};
    return names;
  }
};

TEST_F(WeightsTest, ARunThatStartsFromAMeanOfWeightsTakesTheMeanAndStatisticsThatFitIt) {
  TrainingJob first = normed_job("first", AverageSettings::Type::kSwa);
  first.settings.validation_fraction = 0.0;  // 60 samples: micro-batches of 4 hold each once
  Trainer(first, {}, *self_).run();
  const State mean = read_checkpoint(scratch_.file(fmt_path("first", 20)));

  TrainingJob next = normed_job("next", AverageSettings::Type::kNone);
  next.settings.validation_fraction = 0.0;
  next.settings.initial_weights = scratch_.file(fmt_path("first", 20));
  const State start = start_of(std::move(next));
  for (const std::string& name : parameter_names()) {
    EXPECT_EQ(bytes_of(start, "/parameters/" + name), bytes_of(mean, "/average/parameters/" + name)) << name;
    EXPECT_NE(bytes_of(start, "/parameters/" + name), bytes_of(mean, "/parameters/" + name)) << name;
  }
  // Of x W under the mean's W, over all samples; the statistics of training are of other weights.
  const std::vector<float> weight = floats(mean, "/average/parameters/layers.0.weight");
  const auto source = open_data_source({.path = scratch_.file("data.h5")});
  std::vector<double> expected(3, 0.0);
  for (int64_t row = 0; row < source->size(); ++row) {
    MicroBatch batch(1, source->description().fields());
    source->gather({&row, 1}, batch.buffers());
    const std::vector<float> x = batch.real_values(kInputsName);
    for (size_t j = 0; j < 3; ++j) expected[j] += (x[0] * weight[j] + x[1] * weight[3 + j]) / 60.0;
  }
  const std::vector<float> found = floats(start, "/statistics/layers.1.running_mean"),
                           trained = floats(mean, "/statistics/layers.1.running_mean");
  double away = 0.0;
  for (size_t j = 0; j < 3; ++j) {
    EXPECT_NEAR(found[j], expected[j], 1e-5) << j;
    away = std::max(away, std::abs(trained[j] - expected[j]));
  }
  EXPECT_GT(away, 1e-3) << "or the test shows nothing";
}

TEST_F(WeightsTest, AnAverageBeginsWithTheInitialWeights) {
  Trainer(normed_job("first", AverageSettings::Type::kNone), {}, *self_).run();
  const State first = read_checkpoint(scratch_.file(fmt_path("first", 20)));
  for (const AverageSettings::Type type : {AverageSettings::Type::kEma, AverageSettings::Type::kSwa}) {
    TrainingJob next = normed_job("next " + name_of(type), type);
    next.settings.initial_weights = scratch_.file(fmt_path("first", 20));
    const State start = start_of(std::move(next));
    for (const std::string& name : parameter_names()) {
      EXPECT_EQ(bytes_of(start, "/average/parameters/" + name), bytes_of(first, "/parameters/" + name))
          << name_of(type) << " " << name;
    }
    if (type == AverageSettings::Type::kSwa) continue;
    EXPECT_EQ(bytes_of(start, "/average/statistics/layers.1.running_mean"),
              bytes_of(first, "/statistics/layers.1.running_mean"));
  }
}

TEST_F(WeightsTest, ARunInFp64TakesTheNumbersOfOneInFp32AndNotTheOtherWayRound) {
  Trainer(normed_job("first", AverageSettings::Type::kNone), {}, *self_).run();
  const State first = read_checkpoint(scratch_.file(fmt_path("first", 20)));
  TrainingJob wide = normed_job("wide", AverageSettings::Type::kNone);
  wide.settings.compute = DType::kF64;
  wide.settings.initial_weights = scratch_.file(fmt_path("first", 20));
  const State start = start_of(std::move(wide));
  std::vector<std::string> paths = {"/statistics/layers.1.running_mean",
                                    "/statistics/layers.1.running_variance"};
  for (const std::string& name : parameter_names()) paths.push_back("/parameters/" + name);
  for (const std::string& path : paths) {
    const std::vector<float> narrow = floats(first, path);
    const std::vector<std::byte>& bytes = bytes_of(start, path);
    std::vector<double> found(bytes.size() / sizeof(double));
    std::memcpy(found.data(), bytes.data(), bytes.size());
    EXPECT_EQ(found, std::vector<double>(narrow.begin(), narrow.end())) << path;
  }
  TrainingJob narrow = normed_job("narrow", AverageSettings::Type::kNone);
  narrow.settings.initial_weights = scratch_.file(fmt_path("wide", 0));
  try {
    start_of(std::move(narrow));
    FAIL() << "digits were lost";
  } catch (const AgreedFailure& failure) {
    EXPECT_EQ(failure.kind(), ErrorKind::kCheckpoint);
    EXPECT_NE(std::string(failure.what()).find(" fp32, found "), std::string::npos) << failure.what();
  }
}

TEST_F(WeightsTest, ARunMayTakeThePlaceOfTheOneThatItsInitialWeightsAreOf) {
  Trainer(job("run"), {}, *self_).run();
  const State first = read_checkpoint(scratch_.file(fmt_path("run", 20)));
  TrainingJob next = job("run");
  next.settings.initial_weights = scratch_.file(fmt_path("run", 20));
  next.settings.learning_rate = 0.0;
  next.settings.steps = 5;
  next.settings.checkpoint_every = 0;
  next.optimizer = [] { return make_adam(AdamOptions{}); };
  Trainer(std::move(next), {.overwrite = true}, *self_).run();
  EXPECT_EQ(bytes_of(read_checkpoint(scratch_.file(fmt_path("run", 5))), "/parameters/output.weight"),
            bytes_of(first, "/parameters/output.weight"));
  EXPECT_THROW(read_checkpoint(scratch_.file(fmt_path("run", 20))), Error) << "the old run's have gone";
}

TEST_F(WeightsTest, AnEvaluationThatFailsSavesWhatHasBeenTrained) {
  TrainingJob plain = job("plain");
  plain.settings.checkpoint_every = 6;
  plain.settings.keep = 0;
  Trainer(plain, {}, *self_).run();
  Failing::Where where = Failing::Where::kEvaluation;
  TrainingJob failing = plain;
  failing.settings.output = scratch_.file("failing");
  failing.settings.checkpoint_every = 0;
  failing.settings.evaluate_every = 6;
  failing.model = [&](const DataShape& data, const ModuleBuilder& builder) {
    return std::make_unique<Failing>(plain.model(data, builder), where);
  };
  EXPECT_THROW(Trainer(failing, {}, *self_).run(), AgreedFailure);
  EXPECT_EQ(digest_at("failing", 6), digest_at("plain", 6));
  where = Failing::Where::kNowhere;
  Trainer(failing, {.resume = true}, *self_).run();
  EXPECT_EQ(digest_at("failing", 20), digest_at("plain", 20));
}

TEST_F(WeightsTest, AveragedOnesLeaveTheirPlaceWhenTheEvaluationFails) {
  for (const AverageSettings::Type type : {AverageSettings::Type::kEma, AverageSettings::Type::kSwa}) {
    const std::string untouched = "untouched " + name_of(type);
    TrainingJob plain = normed_job(untouched, type);
    plain.settings.checkpoint_every = 6;
    plain.settings.steps = 6;
    plain.settings.validation_fraction = 0.2;
    {
      Trainer trainer(plain, {}, *self_);
      while (trainer.steps_done() < 6) trainer.step();
      trainer.save();
      trainer.finish();
    }
    for (const Failing::Where place : {Failing::Where::kTraining, Failing::Where::kEvaluation}) {
      // Only a mean needs a pass over the training data.
      if (type == AverageSettings::Type::kEma && place == Failing::Where::kTraining) continue;
      const std::string output = name_of(type) + (place == Failing::Where::kTraining ? " 1" : " 2");
      Failing::Where where = Failing::Where::kNowhere;
      TrainingJob failing = plain;
      failing.settings.output = scratch_.file(output);
      failing.model = [&](const DataShape& data, const ModuleBuilder& builder) {
        return std::make_unique<Failing>(normed(data, builder), where);
      };
      Trainer trainer(std::move(failing), {}, *self_);
      while (trainer.steps_done() < 6) trainer.step();
      where = place;
      EXPECT_THROW(trainer.evaluate(), std::runtime_error) << output;
      trainer.save();
      trainer.finish();
      EXPECT_EQ(digest_at(output, 6), digest_at(untouched, 6)) << output;
    }
  }
}

// Squares of what is beyond the root of the largest number: the variance overflows, the loss does not.
TEST_F(WeightsTest, RunningStatisticsThatAreInfiniteAreADivergenceAndNotSaved) {
  Dataset data;
  data.sample_shape = Shape{2};
  data.classes = 2;
  for (int i = 0; i < 40; ++i) {
    data.inputs_f32.insert(data.inputs_f32.end(), {i % 2 == 0 ? 3e30f : -3e30f, 1.0f});
    data.labels.push_back(i % 2);
  }
  write_dataset(data, scratch_.file("large.h5"));
  TrainingJob large = job("large");
  large.settings.train_data.path = scratch_.file("large.h5");
  large.settings.validation_fraction = 0.0;
  large.model = [](const DataShape& shape, const ModuleBuilder& builder) {
    return make_sequential({batch_norm_layer(), linear_layer(2)}, shape, builder);
  };
  try {
    Trainer(std::move(large), {}, *self_).run();
    FAIL() << "nothing was found";
  } catch (const AgreedFailure& failure) {
    EXPECT_EQ(failure.kind(), ErrorKind::kNumeric);
    EXPECT_NE(std::string(failure.what()).find("left running statistics that are not finite"),
              std::string::npos)
        << failure.what();
  }
  EXPECT_THROW(read_checkpoint(scratch_.file(fmt_path("large", 10))), Error);
}

TEST_F(WeightsTest, ACheckpointIsNotReplacedByAPreparedFile) {
  Trainer(job("run"), {}, *self_).run();
  const std::string checkpoint = scratch_.file(fmt_path("run", 20)), before = digest_at("run", 20);
  for (const std::string& source : {scratch_.file("data.h5"), scratch_.file("table.csv")}) {
    if (source.ends_with(".csv")) testing::overwrite(source, "a,b\n1,0\n2,1\n");
    try {
      prepare_dataset({.path = source}, checkpoint);
      FAIL() << source;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_EQ(error.what(), checkpoint + ": exists and is not an HDF5 file of data: not replaced");
    }
  }
  EXPECT_EQ(digest_at("run", 20), before);
}

}  // namespace
}  // namespace lockstep
