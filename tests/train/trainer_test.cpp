// The trainer as a library: a job of plain C++, steps one by one, callbacks, weights of another run.
#include "lockstep/train/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "data/rejection.h"
#include "lockstep/core/log.h"
#include "lockstep/data/data_source.h"
#include "lockstep/nn/batch_norm.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/sequential.h"
#include "lockstep/optim/parameter_optimizer.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/checkpoint_evaluation.h"
#include "lockstep/train/trained_model.h"
#include "train/small_job.h"

namespace lockstep {
namespace {

using testing::Linear;
using TrainerTest = testing::SmallJobTest;

TEST_F(TrainerTest, StepsOneByOneAreTheRun) {
  TrainOptions quiet{.progress = false};
  std::vector<int64_t> lines;
  std::vector<double> losses;
  TrainOptions watched = quiet;
  watched.on_step = [&](const StepMetrics& metrics) {
    lines.push_back(metrics.step);
    losses.push_back(metrics.loss);
  };
  EXPECT_EQ(Trainer(job("run"), watched, *self_).run(), TrainOutcome::kFinished);
  EXPECT_EQ(lines, (std::vector<int64_t>{10, 20}));
  EXPECT_LT(losses[1], losses[0]);

  Trainer trainer(job("own"), quiet, *self_);
  EXPECT_EQ(trainer.total_steps(), 20);
  while (trainer.steps_done() < trainer.total_steps()) trainer.step();
  const EvaluationResult result = trainer.evaluate();
  EXPECT_EQ(result.samples, 12);
  EXPECT_EQ(result.accuracy, 1.0);
  trainer.save();
  trainer.finish();
  EXPECT_EQ(digest_at("own", 20), digest_at("run", 20));
  EXPECT_THROW(trainer.step(), Error);
}

TEST_F(TrainerTest, StopsWhenAskedAndGoesOnFromThere) {
  TrainOptions quiet{.progress = false};
  Trainer(job("whole"), quiet, *self_).run();
  int asked = 0;
  TrainOptions stopping = quiet;
  stopping.stop = [&] { return ++asked == 7 ? "the test" : ""; };
  EXPECT_EQ(Trainer(job("parts"), stopping, *self_).run(), TrainOutcome::kStopped);
  TrainOptions resuming = quiet;
  resuming.resume = true;
  Trainer rest(job("parts"), resuming, *self_);
  EXPECT_EQ(rest.steps_done(), 7);
  EXPECT_EQ(rest.run(), TrainOutcome::kFinished);
  EXPECT_EQ(digest_at("parts", 20), digest_at("whole", 20));
}

TEST_F(TrainerTest, ResumesWhereThereIsACheckpointAndElseBegins) {
  for (const int64_t begun : {0, 5, 20}) {
    SCOPED_TRACE(begun);
    const std::string name = "from_" + std::to_string(begun);
    int asked = 0;
    TrainOptions options{.stop = [&] { return ++asked == begun ? "the test" : ""; }};
    if (begun > 0) Trainer(job(name), options, *self_).run();
    Trainer again(job(name), {.resume_if_any = true}, *self_);
    EXPECT_EQ(again.steps_done(), begun);
    EXPECT_EQ(again.run(), TrainOutcome::kFinished);
    EXPECT_EQ(digest_at(name, 20), digest_at("from_0", 20));
  }
}

TEST_F(TrainerTest, StartsFromTheWeightsOfAnotherRunButForThoseLeftOut) {
  TrainOptions quiet{.progress = false};
  Trainer(job("first"), quiet, *self_).run();
  const State first = read_checkpoint(scratch_.file(fmt_path("first", 20)));
  const auto parameters_of = [&](const std::vector<std::string>& without) {
    TrainingJob next = job("next" + std::to_string(without.size()));
    next.settings.learning_rate = 0.0;  // nothing moves
    next.settings.initial_weights = scratch_.file(fmt_path("first", 20));
    next.settings.initial_weights_without = without;
    next.optimizer = [] { return make_adam(AdamOptions{}); };
    const std::string output = next.settings.output;
    Trainer(std::move(next), quiet, *self_).run();
    return read_checkpoint(output + "/step-000000020.h5").arrays;
  };
  const auto bytes = [](const std::vector<StateArray>& arrays, const std::string& path) {
    return std::ranges::find_if(arrays, [&](const StateArray& array) { return array.path == path; })->bytes;
  };
  const std::string weight = "/parameters/output.weight", bias = "/parameters/output.bias";
  const std::vector<StateArray> all = parameters_of({}), without = parameters_of({"*.weight"});
  EXPECT_EQ(bytes(all, weight), bytes(first.arrays, weight));
  EXPECT_EQ(bytes(all, bias), bytes(first.arrays, bias));
  EXPECT_NE(bytes(without, weight), bytes(first.arrays, weight));
  EXPECT_EQ(bytes(without, bias), bytes(first.arrays, bias));
}

TEST_F(TrainerTest, NamesWhatDoesNotFitOfInitialWeights) {
  TrainOptions quiet{.progress = false};
  Trainer(job("first"), quiet, *self_).run();
  const auto error_of = [&](const std::function<void(TrainingJob&)>& change) {
    TrainingJob next = job("next");
    next.settings.initial_weights = scratch_.file(fmt_path("first", 20));
    change(next);
    try {
      Trainer(std::move(next), quiet, *self_);
    } catch (const AgreedFailure& failure) {
      return std::string(failure.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(error_of([](TrainingJob& next) {
              next.model = [](const DataShape& data, const ModuleBuilder& builder) {
                return std::make_unique<Linear>(data, builder.scope("other"));
              };
            }).find("other.output.weight"),
            std::string::npos);
  EXPECT_NE(error_of([](TrainingJob& next) {
              next.settings.initial_weights_without = {"outpt*"};
            }).find("pattern \"outpt*\" fits no parameter; there are output.weight, output.bias"),
            std::string::npos);
}

// Points whose file breaks at one of them, once they have been looked through. plainly: as a program's own
// sources may say it.
class Breaking final : public WholeSource {
 public:
  explicit Breaking(int64_t good, bool plainly = false) : good_(good), plainly_(plainly) {
    description_.source = "points";
    description_.samples = 60;
    description_.sample_shape = {2};
    description_.classes = 2;
  }
  std::string digest() const override { return "0123456789abcdef0123456789abcdef"; }
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override {
    for (size_t i = 0; i < rows.size(); ++i) {
      const std::string gone = "row " + std::to_string(rows[i]) + " is gone";
      if (rows[i] >= good_ && plainly_) throw std::runtime_error(gone);
      if (rows[i] >= good_) fail(ErrorKind::kData, "points: " + gone);
      const SampleBuffers place = out.from(static_cast<int64_t>(i));
      place.at<float>(DataDescription::kInputs)[0] = rows[i] % 2 == 0 ? 1.0f : -1.0f;
      place.at<float>(DataDescription::kInputs)[1] = 0.3f * static_cast<float>(rows[i] % 7);
      *place.at<int32_t>(DataDescription::kTargets) = static_cast<int32_t>(rows[i] % 2);
    }
  }

 private:
  int64_t good_;
  bool plainly_;
};

TEST_F(TrainerTest, WhatWasTrainedIsSavedWhereSamplesCannotBeHad) {
  const auto breaking = [&](const std::string& output, int64_t good) {
    TrainingJob next = job(output);
    next.settings.train_data = {};
    next.settings.train_data.open = [good](const DatasetOptions&) {
      return std::make_shared<Breaking>(good, good % 2 == 0);
    };
    next.settings.validation_fraction = 0.0;
    next.settings.shuffle = false;
    next.settings.steps = 7;  // of 8 samples each
    return next;
  };
  const auto failure_of = [](const std::function<void()>& part) {
    try {
      part();
    } catch (const AgreedFailure& failure) {
      EXPECT_EQ(failure.kind(), ErrorKind::kData);
      EXPECT_TRUE(failure.speaks());
      return std::string(failure.what());
    }
    return std::string("no failure");
  };
  const TrainOptions quiet{.progress = false};
  for (const int64_t step : {1, 2, 5}) {
    SCOPED_TRACE(step);
    const std::string number = std::to_string(step);
    const int64_t good = 8 * step + 2 + step % 2;
    const std::string gone = "points: row " + std::to_string(good) + " is gone";
    TrainingJob whole = breaking("whole" + number, 60);
    whole.settings.steps = step;
    Trainer(std::move(whole), quiet, *self_).run();

    Trainer run(breaking("run" + number, good), quiet, *self_);
    EXPECT_EQ(failure_of([&] { run.run(); }), gone);
    EXPECT_EQ(digest_at("run" + number, static_cast<int>(step)),
              digest_at("whole" + number, static_cast<int>(step)));

    Trainer own(breaking("own" + number, good), quiet, *self_);
    for (int64_t i = 0; i < step; ++i) own.step();
    for (int again = 0; again < 2; ++again) EXPECT_EQ(failure_of([&] { own.step(); }), gone);
    EXPECT_EQ(own.steps_done(), step);
    own.save();
    own.finish();
    EXPECT_EQ(digest_at("own" + number, static_cast<int>(step)),
              digest_at("whole" + number, static_cast<int>(step)));
  }
  EXPECT_EQ(failure_of([&] { Trainer(breaking("none", 3), quiet, *self_); }), "points: row 3 is gone");
  EXPECT_NE(testing::bytes_of(scratch_.file("none/status.json")).find("\"exit_code\":3"), std::string::npos);
}

// The statistics of a mean of weights come from all of the training data.
TEST_F(TrainerTest, WhatWasTrainedIsSavedWhereAnEvaluationLacksSamples) {
  const auto averaging = [&](const std::string& output, int64_t good, bool plainly = false) {
    TrainingJob next = job(output);
    next.settings.train_data = {};
    next.settings.train_data.open = [good, plainly](const DatasetOptions&) {
      return std::make_shared<Breaking>(good, plainly);
    };
    next.settings.validation_data.open = [](const DatasetOptions&) { return std::make_shared<Breaking>(60); };
    next.settings.validation_fraction = 0.0;
    next.settings.shuffle = false;
    next.settings.steps = 4;  // of 8 samples each
    next.settings.evaluate_every = 2;
    next.settings.average.type = AverageSettings::Type::kSwa;
    next.model = [](const DataShape& data, const ModuleBuilder& builder) {
      return make_sequential({linear_layer(3), batch_norm_layer(), linear_layer(2)}, data, builder);
    };
    return next;
  };
  const TrainOptions quiet{.progress = false};
  for (const bool plainly : {false, true}) {
    Trainer run(averaging(plainly ? "plainly" : "run", 41, plainly), quiet, *self_);
    try {
      run.run();
      ADD_FAILURE();
    } catch (const AgreedFailure& failure) {
      EXPECT_EQ(failure.kind(), ErrorKind::kData);
      EXPECT_NE(std::string(failure.what()).find("points: row "), std::string::npos) << failure.what();
      EXPECT_NE(std::string(failure.what()).find("is gone"), std::string::npos) << failure.what();
    }
  }
  TrainingJob whole = averaging("whole", 60);
  whole.settings.steps = 2;
  Trainer(std::move(whole), quiet, *self_).run();
  const auto parameters = [&](const std::string& output) {
    return testing::bytes_of(read_checkpoint(scratch_.file(fmt_path(output, 2))),
                             "/parameters/layers.0.weight");
  };
  EXPECT_EQ(parameters("run"), parameters("whole"));
  EXPECT_EQ(parameters("plainly"), parameters("whole"));
}

TEST_F(TrainerTest, JobsThatCannotBeAreRefusedBeforeAnythingIsWritten) {
  const auto refused = [&](const std::function<void(TrainingJob&)>& change, const std::string& rule) {
    TrainingJob wrong = job("wrong");
    change(wrong);
    testing::expect_rejection(ErrorKind::kUsage, {rule}, [&] { Trainer(wrong, {}, *self_); });
    EXPECT_FALSE(std::filesystem::exists(scratch_.file("wrong"))) << rule;
  };
  refused([](TrainingJob& j) { j.model = {}; }, "model: the job has none");
  refused([](TrainingJob& j) { j.optimizer = {}; }, "optimizer: the job has none");
  refused([](TrainingJob& j) { j.model = [](auto&&...) { return nullptr; }; },
          "model: the program's function has made none");
  refused([](TrainingJob& j) { j.optimizer = [] { return nullptr; }; },
          "optimizer: the program's function has made none");
  refused([](TrainingJob& j) { j.schedule = [](auto&&) { return nullptr; }; },
          "schedule: the program's function has made none");
  refused([](TrainingJob& j) { j.settings.output = ""; }, "run.output: must not be empty");
  refused([](TrainingJob& j) { j.settings.device = "tpu"; }, "device.type: must be one of");
  refused([](TrainingJob& j) { j.settings.prefetch = 0; }, "data.prefetch: must be");
  refused([](TrainingJob& j) { j.settings.keep = -1; }, "checkpoint.keep: must be");
  refused([](TrainingJob& j) { j.settings.threads = 0; }, "device.threads: must be");
  for (const bool if_any : {false, true}) {
    const TrainOptions both{.resume = !if_any, .resume_if_any = if_any, .overwrite = true};
    testing::expect_rejection(ErrorKind::kUsage, {"overwrite: not with resume"},
                              [&] { Trainer(job("wrong"), both, *self_); });
  }
}

// Descent with state of the given names, which it does not look at.
class Naming final : public ParameterOptimizer {
 public:
  explicit Naming(std::vector<std::string> names) : ParameterOptimizer("naming"), names_(std::move(names)) {}

 protected:
  void declare_state(size_t, const ParameterEntry& parameter) override {
    for (const std::string& name : names_) reserve(name, parameter.shape);
  }
  void update_parameter(const ParameterUpdate&) override {}

 private:
  std::vector<std::string> names_;
};

TEST_F(TrainerTest, StateThatNoCheckpointCouldHoldIsRefusedAtTheStart) {
  const auto refused = [&](const std::vector<std::string>& names, const std::string& rule) {
    TrainingJob wrong = job("wrong");
    wrong.optimizer = [&] { return std::make_unique<Naming>(names); };
    testing::expect_rejection(ErrorKind::kUsage, {"optimizer naming: state: " + rule},
                              [&] { Trainer(wrong, {}, *self_); });
    EXPECT_FALSE(std::filesystem::exists(scratch_.file("wrong"))) << rule;
  };
  refused({"moment", ""}, "checkpoints cannot have the name ''");
  refused({"/moment"}, "checkpoints cannot have the name '/moment'");
  refused({"moment", "moment/second"}, "checkpoints cannot have both 'moment' and 'moment/second'");
  TrainingJob good = job("good");
  good.optimizer = [] { return std::make_unique<Naming>(std::vector<std::string>{"a/b", "a/c"}); };
  EXPECT_EQ(Trainer(good, {}, *self_).run(), TrainOutcome::kFinished);
}

// A linear model beside which there is a parameter of the given shape.
class WithParameter final : public Module {
 public:
  WithParameter(const Shape& shape, const DataShape& data, const ModuleBuilder& builder)
      : linear_(data, builder) {
    builder.parameter("more", shape, {});
  }
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    return linear_.forward(x, context);
  }

 private:
  Linear linear_;
};

TEST_F(TrainerTest, AParameterWithoutElementsIsRefusedByItsName) {
  TrainingJob wrong = job("wrong");
  wrong.model = [](const DataShape& data, const ModuleBuilder& builder) {
    return std::make_unique<WithParameter>(Shape{3, 0}, data, builder.scope("part"));
  };
  testing::expect_rejection(ErrorKind::kUsage, {"model: parameter part.more has no elements: shape (3,0)"},
                            [&] { Trainer(wrong, {}, *self_); });
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("wrong")));
}

TEST_F(TrainerTest, WhatASettingSaysOfTheRunIsComparedWithoutADescription) {
  TrainingJob first = job("run");
  first.settings.steps = 10;
  Trainer(first, {}, *self_).run();
  const auto resumed = [&](const std::function<void(RunSettings&)>& change) {
    TrainingJob next = job("run");
    change(next.settings);
    Trainer(next, {.resume = true}, *self_);
  };
  const auto refused = [&](const std::function<void(RunSettings&)>& change, const std::string& rule) {
    testing::expect_rejection(ErrorKind::kCheckpoint, {rule + "; a resumed run must keep it"},
                              [&] { resumed(change); });
  };
  refused([](RunSettings& s) { s.normalize = true; }, "data.normalize = \"standard\", it was \"none\"");
  refused([](RunSettings& s) { s.compute = DType::kBF16; }, "precision.compute = \"bf16\", it was \"fp32\"");
  refused([](RunSettings& s) { s.compute = DType::kF64; }, "precision.compute = \"fp64\", it was \"fp32\"");
  refused([](RunSettings& s) { s.objective.label_smoothing = 0.1; },
          "train.label_smoothing = 0.1, it was 0.0");
  refused(
      [](RunSettings& s) {
        s.objective.class_weights = {1.0, 2.0};
      },
      "train.class_weights = [1.0, 2.0], it was []");
  refused([](RunSettings& s) { s.average.type = AverageSettings::Type::kEma; },
          "average.type = \"ema\", it was \"none\"");
  refused([](RunSettings& s) { s.train_data.ignore_label = -1; }, "data.ignore_label = -1, it was not set");
  resumed([](RunSettings&) {});
  resumed([](RunSettings& s) { s.learning_rate = 0.01; });
}

// Whose model a configuration may name all the same.
TEST_F(TrainerTest, ACheckpointOfAJobWithoutADescriptionIsEvaluatedWhereItsTensorsFit) {
  TrainingJob undescribed = job("run");
  undescribed.model = [](const DataShape& data, const ModuleBuilder& builder) {
    return make_sequential({linear_layer(2)}, data, builder);
  };
  Trainer trainer(undescribed, {}, *self_);
  trainer.run();
  const double loss = trainer.evaluate().loss;
  const auto evaluated = [&](const std::string& units, const std::string& more = "") {
    Configuration configuration = Configuration::parse(
        "[data]\ntrain = \"" + scratch_.file("data.h5") + "\"\nvalidation_fraction = 0.2\n" + more +
            "[train]\nsteps = 20\n[device]\ntype = \"" + test_device() +
            "\"\n[model]\ntype = \"sequential\"\nlayers = [{type = \"linear\", units = 2}" + units + "]\n",
        "run.toml", {});
    std::string weights;
    return evaluate_checkpoint(configuration, scratch_.file(fmt_path("run", 20)), *self_, weights)
        .result.loss;
  };
  std::vector<std::string> warnings;
  set_log([&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning) warnings.push_back(message);
  });
  EXPECT_NEAR(evaluated(""), loss, 1e-12);
  set_log(nullptr);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("step-000000020.h5: of a program that has not described its model"),
            std::string::npos)
      << warnings[0];
  testing::expect_rejection(ErrorKind::kCheckpoint, {"/parameters/layers.1.weight"},
                            [&] { evaluated(", {type = \"linear\", units = 2}"); });
  testing::expect_rejection(ErrorKind::kCheckpoint, {"data.normalize = \"standard\", it was \"none\""},
                            [&] { evaluated("", "normalize = \"standard\"\n"); });
}

// Checkpoints of such jobs once had no text at all.
TEST_F(TrainerTest, AJobWithoutADescriptionGoesOnFromACheckpointWithoutOne) {
  TrainingJob first = job("run");
  first.settings.steps = 10;
  first.settings.normalize = true;
  first.describe = [] { return TrainingJob::Description{}; };
  Trainer(first, {}, *self_).run();
  ASSERT_EQ(read_checkpoint(scratch_.file(fmt_path("run", 10))).configuration, "");
  TrainingJob next = job("run");
  next.settings.normalize = true;
  EXPECT_EQ(Trainer(next, {.resume = true}, *self_).run(), TrainOutcome::kFinished);
}

TEST_F(TrainerTest, LossScalingIsDynamicInFp16UnlessSettingsSayElse) {
  const auto scale_of = [&](DType compute, std::optional<LossScaling> mode) {
    TrainingJob next = job("run");
    next.settings.steps = 1;
    next.settings.compute = compute;
    if (mode) next.settings.loss_scale.mode = *mode;
    double scale = 0.0;
    const TrainOptions options{.overwrite = true,
                               .on_step = [&](const StepMetrics& metrics) { scale = metrics.loss_scale; }};
    Trainer(next, options, *self_).run();
    return scale;
  };
  EXPECT_EQ(scale_of(DType::kF16, {}), 65536.0);
  EXPECT_EQ(scale_of(DType::kBF16, {}), 1.0);
  EXPECT_EQ(scale_of(DType::kF32, {}), 1.0);
  EXPECT_EQ(scale_of(DType::kF16, LossScaling::kOff), 1.0);
}

TEST_F(TrainerTest, WhatWasTrainedIsSavedWhereACallbackThrows) {
  TrainingJob whole = job("whole");
  whole.settings.checkpoint_every = 1;
  whole.settings.keep = 0;
  Trainer(whole, {}, *self_).run();
  // Reports of a device are read up to so many steps later.
  const int64_t ahead = test_backend().native_queue() == nullptr ? 0 : 4;
  const auto ends = [&](const std::string& output, TrainOptions options, int64_t least,
                        int64_t evaluate_every) {
    int step = 0;
    TrainingJob next = job(output);
    next.settings.log_every = 7;
    next.settings.evaluate_every = evaluate_every;
    {
      Trainer run(next, options, *self_);
      EXPECT_THROW(run.run(), std::out_of_range);
      step = static_cast<int>(run.steps_done());
      EXPECT_GE(step, least);
      EXPECT_LE(step, least + ahead);
    }
    EXPECT_EQ(digest_at(output, step), digest_at("whole", step));
    EXPECT_NE(testing::bytes_of(scratch_.file(output + "/status.json")).find("\"exit_code\":1"),
              std::string::npos);
    next.settings.evaluate_every = 0;
    Trainer rest(next, {.resume = true}, *self_);
    EXPECT_EQ(rest.run(), TrainOutcome::kFinished);
    EXPECT_EQ(digest_at(output, 20), digest_at("whole", 20));
  };
  const auto thrower = [](auto&&...) { throw std::out_of_range("of the program"); };
  // Step 7 is over then, and step 8 is the next thing that workers talk about.
  ends("step", {.on_step = thrower}, 8, 0);
  ends("evaluation", {.on_evaluation = thrower}, 8, 7);
  int asked = 0;
  ends("stop", {.stop = [&]() -> std::string { return ++asked == 7 ? throw std::out_of_range("it") : ""; }},
       7, 0);
}

// So that a file that no seal vouches for is not read in a trial for nothing.
TEST_F(TrainerTest, ACheckpointTellsWhetherItsModelNeedsTheData) {
  Trainer(job("plain"), {}, *self_).run();
  TrainingJob averaging = job("averaged");
  averaging.settings.average.type = AverageSettings::Type::kSwa;
  Trainer(std::move(averaging), {}, *self_).run();
  const std::string plain = scratch_.file(fmt_path("plain", 20)),
                    averaged = scratch_.file(fmt_path("averaged", 20));
  EXPECT_FALSE(needs_run_data(plain, ""));
  EXPECT_FALSE(needs_run_data(plain, "trained"));
  EXPECT_TRUE(needs_run_data(averaged, "")) << "for the statistics of the mean";
  EXPECT_FALSE(needs_run_data(averaged, "trained"));
  EXPECT_TRUE(needs_run_data(scratch_.file("absent.h5"), "")) << "only rank 0 may have it";
  State before = read_checkpoint(plain);
  before.data.clear();
  write_checkpoint(before, scratch_.file("before.h5"));
  EXPECT_TRUE(needs_run_data(scratch_.file("before.h5"), "")) << "written by an earlier version";
}

TEST_F(TrainerTest, EvaluatingWithoutValidationDataIsAnError) {
  TrainingJob plain = job("plain");
  plain.settings.validation_fraction = 0.0;
  Trainer trainer(std::move(plain), {.progress = false}, *self_);
  EXPECT_THROW(trainer.evaluate(), Error);
}

}  // namespace
}  // namespace lockstep
