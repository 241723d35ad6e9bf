// Minimizers as the optimizers of a run: paths of an independent program, where a run ends, stops within
// steps, and what they are not to be combined with.
#include "lockstep/train/minimizer_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lockstep/core/log.h"
#include "lockstep/optim/minimizing.h"
#include "train/small_job.h"

namespace lockstep {
namespace {

using testing::bytes_of;

std::vector<double> doubles_of(const State& state, const std::string& path) {
  const std::vector<std::byte>& bytes = bytes_of(state, path);
  std::vector<double> values(bytes.size() / sizeof(double));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

class MinimizerStepTest : public testing::SmallJobTest {
 protected:
  // The model and the whole data set, in fp64.
  TrainingJob minimizing(const std::string& output, const std::string& optimizer,
                         const std::string& model = "type = \"logistic\"\n") {
    texts_.push_back(std::make_unique<Configuration>(
        Configuration::parse("[model]\n" + model + "[optimizer]\n" + optimizer, "test.toml", {})));
    TrainingJob whole = job(output);
    TrainingJob made = read_training_job(*texts_.back(), whole.settings);
    made.describe = {};
    made.settings.learning_rate = RunSettings().learning_rate;
    made.settings.micro_batches = 0;
    made.settings.micro_batch_size = 16;
    made.settings.compute = DType::kF64;
    made.settings.log_every = 1;
    made.settings.l2 = 1e-3;
    made.schedule = {};
    return made;
  }

  static nlohmann::json golden(const std::string& name) {
    std::ifstream file(LOCKSTEP_TRAIN_GOLDENS "/" + name);
    return nlohmann::json::parse(file);
  }
  // The first samples of goldens/minimizers.json.
  std::string digits(size_t samples = 120) {
    const nlohmann::json golden = MinimizerStepTest::golden("minimizers.json");
    Dataset data;
    data.sample_shape = Shape{16};
    data.classes = 10;
    const auto divisor = golden["divisor"].get<float>();
    for (size_t i = 0; i < 16 * samples; ++i)
      data.inputs_f32.push_back(golden["inputs"][i].get<float>() / divisor);
    data.labels = golden["labels"].get<std::vector<int32_t>>();
    data.labels.resize(samples);
    write_dataset(data, scratch_.file("digits.h5"));
    return scratch_.file("digits.h5");
  }
  void expect_end(const TrainingJob& run, const std::string& output, const std::vector<double>& end) {
    const State state =
        read_checkpoint(scratch_.file(fmt_path(output, static_cast<int>(run.settings.steps))));
    std::vector<double> theta = doubles_of(state, "/parameters/output.bias");
    const std::vector<double> weight = doubles_of(state, "/parameters/output.weight");
    theta.insert(theta.end(), weight.begin(), weight.end());
    ASSERT_EQ(theta.size(), end.size());
    for (size_t i = 0; i < end.size(); ++i) EXPECT_NEAR(theta[i], end[i], 1e-9 * (1.0 + std::fabs(end[i])));
  }

  std::vector<std::unique_ptr<Configuration>> texts_;
};

TEST_F(MinimizerStepTest, TakesThePathsOfAnIndependentProgram) {
  const nlohmann::json golden = MinimizerStepTest::golden("minimizers.json");
  const std::map<std::string, std::string> optimizers = {
      {"gradient_descent", "type = \"gradient_descent\"\nline_search = {type = \"strong_wolfe\"}\n"},
      {"gradient_descent_armijo", "type = \"gradient_descent\"\nline_search = {type = \"armijo\"}\n"},
      {"momentum", "type = \"momentum\"\nline_search = {type = \"strong_wolfe\"}\n"},
      {"momentum_armijo", "type = \"momentum\"\nmomentum = 0.5\nline_search = {type = \"armijo\"}\n"},
      {"bfgs", "type = \"bfgs\"\n"},
      {"lbfgs", "type = \"lbfgs\"\nhistory = 5\n"},
      {"newton", "type = \"newton\"\n"},
      {"newton_cg", "type = \"newton_cg\"\n"},
      {"newton_cg_damped", "type = \"newton_cg\"\ndamping = 0.02\n"},
      {"natural_gradient",
       "type = \"natural_gradient\"\ndamping = 0.05\nresidual = 1e-13\nmost_products = 400\n"},
      {"natural_gradient_rate",
       "type = \"natural_gradient\"\ndamping = 0.05\nresidual = 1e-13\nmost_products = 400\nrate = 0.7\n"},
      {"trust_region", "type = \"trust_region\"\n"}};
  for (const auto& [name, optimizer] : optimizers) {
    SCOPED_TRACE(name);
    const nlohmann::json& path = golden["paths"][name];
    const auto losses = path["losses"].get<std::vector<double>>();
    const auto lengths = path["lengths"].get<std::vector<double>>();
    TrainingJob run = minimizing(name, optimizer);
    run.settings.train_data.path = digits();
    run.settings.validation_fraction = 0.0;
    run.settings.steps = static_cast<int64_t>(lengths.size());
    size_t step = 0;
    TrainOptions options;
    options.on_step = [&](const StepMetrics& metrics) {
      ASSERT_TRUE(metrics.minimizer.has_value());
      EXPECT_NEAR(metrics.loss, losses[step], 1e-9 * losses[step]) << step;
      EXPECT_NEAR(metrics.minimizer->loss_after, losses[step + 1], 1e-9 * losses[step + 1]) << step;
      EXPECT_NEAR(metrics.minimizer->length, lengths[step], 1e-9 * lengths[step]) << step;
      ++step;
    };
    Trainer(run, options, *self_).run();
    EXPECT_EQ(step, lengths.size());
    expect_end(run, name, path["end"].get<std::vector<double>>());
  }
}

// Over pieces of epochs that are whole and not, pairs that have enough curvature and not.
TEST_F(MinimizerStepTest, MultiBatchLbfgsTakesThePathOfAnIndependentProgram) {
  for (const nlohmann::json& path : golden("multi_batch.json")) {
    const auto keys = path["keys"].get<std::string>();
    SCOPED_TRACE(keys);
    const auto losses = path["losses"].get<std::vector<double>>();
    const auto after = path["losses_after"].get<std::vector<double>>();
    const auto looks = path["looks"].get<bool>();
    const std::string output = "multi_batch" + std::to_string(texts_.size());
    TrainingJob run = minimizing(output, "type = \"lbfgs\"\n" + keys);
    run.settings.train_data.path = digits(path["samples"].get<size_t>());
    run.settings.validation_fraction = 0.0;
    run.settings.shuffle = false;
    run.settings.micro_batches = path["micro_batches"].get<int64_t>();
    run.settings.micro_batch_size = path["micro_batch_size"].get<int64_t>();
    if (path["pad"].get<bool>()) run.settings.last_batch = LastBatch::kPad;
    run.settings.steps = static_cast<int64_t>(losses.size());
    size_t step = 0;
    TrainOptions options;
    options.on_step = [&](const StepMetrics& metrics) {
      EXPECT_NEAR(metrics.loss, losses[step], 1e-9 * losses[step]) << step;
      if (looks) {
        EXPECT_NEAR(metrics.minimizer->loss_after, after[step], 1e-9 * after[step]) << step;
      } else {
        EXPECT_TRUE(std::isnan(metrics.minimizer->loss_after));
        EXPECT_EQ(metrics.minimizer->values, 0);
      }
      // Nothing but the batch's own; where the batch is the overlap, at the other end too.
      EXPECT_EQ(metrics.minimizer->gradients, keys.find("overlap") == std::string::npos ? 2 : 1) << step;
      ++step;
    };
    Trainer(run, options, *self_).run();
    EXPECT_EQ(step, losses.size());
    expect_end(run, output, path["end"].get<std::vector<double>>());
  }
}

TEST_F(MinimizerStepTest, ARunEndsWhereThereIsNothingLeftToGainAndSaysWhy) {
  TrainOptions options;
  std::string last;
  options.on_step = [&](const StepMetrics& metrics) { last = metrics.minimizer->outcome; };
  int steps = 0;
  {
    Trainer newton(minimizing("newton", "type = \"newton\"\n"), options, *self_);
    EXPECT_EQ(newton.run(), TrainOutcome::kFinished);
    EXPECT_LT(newton.steps_done(), 10);
    EXPECT_EQ(last, "wolfe");
    EXPECT_NE(newton.ended().find("converged: the largest element of the gradient is "), std::string::npos);
    steps = static_cast<int>(newton.steps_done());
  }
  const std::string digest = digest_at("newton", steps);
  // Resumed, there is nothing to do; with a smaller tolerance there is, until digits end.
  options.resume = true;
  {
    Trainer again(minimizing("newton", "type = \"newton\"\n"), options, *self_);
    EXPECT_EQ(again.run(), TrainOutcome::kFinished);
    EXPECT_EQ(again.steps_done(), steps);
  }
  EXPECT_EQ(digest_at("newton", steps), digest);
  TrainingJob farther = minimizing("newton", "type = \"newton\"\ntolerance = 0.0\n");
  farther.settings.steps = 200;
  Trainer closer(farther, options, *self_);
  EXPECT_EQ(closer.run(), TrainOutcome::kFinished);
  EXPECT_GT(closer.steps_done(), steps);
  EXPECT_LT(closer.steps_done(), 100);
  EXPECT_NE(closer.ended(), "");
  // A step of a program's own loop changes nothing then, and is one.
  closer.step();
  EXPECT_NE(closer.ended(), "");
}

TEST_F(MinimizerStepTest, ARunThatIsStuckGoesOnWithOtherSettings) {
  const auto with = [&](const std::string& search) {
    const std::string optimizer =
        "type = \"gradient_descent\"\nline_search = {type = \"armijo\"" + search + "}\n";
    TrainingJob made = minimizing("stuck", optimizer);
    made.describe = [optimizer] { return TrainingJob::Description{"[optimizer]\n" + optimizer, {}}; };
    made.settings.steps = 100;
    return made;
  };
  TrainOptions options;
  const auto ends_at = [&](const std::string& search) {
    Trainer trainer(with(search), options, *self_);
    EXPECT_EQ(trainer.run(), TrainOutcome::kFinished);
    return std::pair(trainer.steps_done(), trainer.ended());
  };
  // One trial that has to take nearly all of the slope: such a search fails soon.
  const std::string narrow = ", most_trials = 1, decrease = 0.9";
  const auto [steps, reason] = ends_at(narrow);
  EXPECT_LT(steps, 50);
  EXPECT_NE(reason.find("cannot be lowered any more"), std::string::npos) << reason;
  options.resume = true;
  EXPECT_EQ(ends_at(narrow).first, steps);
  EXPECT_GT(ends_at("").first, steps + 5);
}

TEST_F(MinimizerStepTest, IsTheSameFromCppAndStopsBetweenEvaluations) {
  const std::string mlp = "type = \"mlp\"\nhidden = [4]\ndropout = 0.2\n";
  struct Case {
    std::string name, toml;
    std::function<std::unique_ptr<Minimizer>()> make;
    int64_t micro_batches;  // of 16 samples, 0: all 48
  };
  const std::vector<Case> cases = {
      {"newton_cg", "most_products = 7\n", [] { return make_newton_cg({.most_products = 7}); }, 0},
      // History and steps are such that pairs are forgotten.
      {"lbfgs", "history = 2\noverlap = 1\n",
       [] { return make_lbfgs({.history = 2, .overlap = 1, .line_search = {.type = "armijo"}}); }, 2}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const auto make = [&](const std::string& output) {
      TrainingJob made = minimizing(c.name + output, "", mlp);
      made.settings.steps = 6;
      made.settings.checkpoint_every = 0;
      made.settings.micro_batches = c.micro_batches;
      made.optimizer = [&] { return optimizer_of(c.make()); };
      return made;
    };
    int asked = 0;
    TrainOptions counting;
    counting.stop = [&] {
      ++asked;
      return "";
    };
    Trainer(make("whole"), counting, *self_).run();
    const std::string expected = digest_at(c.name + "whole", 6);
    const int questions = asked;
    EXPECT_GT(questions, 15);
    TrainingJob toml = minimizing(c.name + "toml", "type = \"" + c.name + "\"\n" + c.toml, mlp);
    toml.settings.steps = 6;
    toml.settings.micro_batches = c.micro_batches;
    Trainer(toml, {}, *self_).run();
    EXPECT_EQ(digest_at(c.name + "toml", 6), expected);
    // Of all moments, some; each leaves a checkpoint of whole steps.
    for (int moment = 1; moment < questions; moment += 3) {
      const std::string output = "at" + std::to_string(moment);
      asked = 0;
      TrainOptions stopping;
      stopping.stop = [&] { return ++asked == moment ? "the test" : ""; };
      EXPECT_EQ(Trainer(make(output), stopping, *self_).run(), TrainOutcome::kStopped) << moment;
      EXPECT_LE(asked, moment + 2) << moment;
      TrainOptions resuming;
      resuming.resume = true;
      EXPECT_EQ(Trainer(make(output), resuming, *self_).run(), TrainOutcome::kFinished) << moment;
      EXPECT_EQ(digest_at(c.name + output, 6), expected) << moment;
    }
  }
}

TEST_F(MinimizerStepTest, OverlapsThatBatchesCannotHaveAreRefusedByName) {
  const auto refused = [&](const std::string& keys, int64_t micro_batches,
                           const std::vector<std::string>& words) {
    try {
      TrainingJob run = minimizing("refused", "type = \"lbfgs\"\n" + keys);
      run.settings.micro_batches = micro_batches;
      run.settings.micro_batch_size = 4;
      Trainer(run, {}, *self_);
      ADD_FAILURE() << keys << micro_batches;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
      for (const std::string& word : words)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  refused("overlap = 3\n", 5, {"optimizer.overlap", "half", "2 of train.micro_batches = 5", "got 3"});
  refused("overlap = 1\n", 1, {"optimizer.overlap", "0 of train.micro_batches = 1", "got 1"});
  refused("overlap = 1\n", 0, {"optimizer.overlap", "train.micro_batches, fewer than 12", "got 1"});
  refused("overlap = 1\n", 12, {"optimizer.overlap", "train.micro_batches"});
  refused("overlap = 1\n", 13, {"optimizer.overlap", "train.micro_batches, fewer than 12"});
  refused("overlap = 1\nline_search = {type = \"strong_wolfe\"}\n", 5,
          {"overlap", "line_search.type", "strong_wolfe"});
  EXPECT_THROW(make_lbfgs({.overlap = -1}), Error);
  EXPECT_THROW(make_lbfgs({.rate = -1.0}), Error);

  // Half of all is the most; another overlap is another course of the run.
  const auto made = [&](const std::string& keys) {
    TrainingJob run = minimizing("half", "type = \"lbfgs\"\n" + keys);
    run.settings.micro_batches = 4;
    run.settings.micro_batch_size = 4;
    run.settings.steps = 10;
    return run;
  };
  Trainer(made("overlap = 2\n"), {}, *self_).run();
  TrainOptions resuming;
  resuming.resume = true;
  for (const auto& [keys, word] :
       {std::pair<std::string, std::string>{"overlap = 1\n",
                                            "optimizer/overlap: the checkpoint has 2, this run has 1"},
        {"", "optimizer/overlap: the checkpoint has 2, this run has 0"}}) {
    try {
      Trainer(made(keys), resuming, *self_);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }
}

TEST_F(MinimizerStepTest, LevenbergMarquardtFitsSumsOfSquaresAndNothingElse) {
  // y = tanh(x) / 2 is a network of one unit: the loss goes to 0, from batches of the set too.
  std::string csv = "x,y\n";
  for (int i = 0; i < 24; ++i) {
    const double x = 0.25 * (i - 12);
    csv += std::to_string(x) + ',' + std::to_string(0.5 * std::tanh(x)) + '\n';
  }
  std::ofstream(scratch_.file("curve.csv")) << csv;
  double loss = 1.0;  // after the last step
  const auto fit = [&](const std::string& options, const std::string& hidden, int64_t micro_batches,
                       int64_t steps) {
    const std::string output = "fit" + std::to_string(texts_.size());
    TrainingJob made = minimizing(output, "type = \"levenberg_marquardt\"\n" + options,
                                  "type = \"mlp\"\nhidden = " + hidden + "\nactivation = \"tanh\"\n");
    made.settings.train_data.path = scratch_.file("curve.csv");
    made.settings.train_data.classes = -1;
    made.settings.validation_fraction = 0.0;
    made.settings.micro_batches = micro_batches;
    made.settings.micro_batch_size = 6;
    made.settings.l2 = 0.0;
    made.settings.steps = steps;
    TrainOptions watching;
    watching.on_step = [&](const StepMetrics& metrics) { loss = metrics.minimizer->loss_after; };
    Trainer(made, watching, *self_).run();
  };
  for (const int64_t micro_batches : {0, 2}) {
    for (const std::string options : {"", "solver = \"cg\"\nresidual = 1e-6\n"}) {
      fit(options, "[1]", micro_batches, 40);
      EXPECT_LT(loss, 1e-12) << micro_batches << ' ' << options;
    }
  }
  // 4758 parameters: only products are left.
  fit("", "[67, 67]", 0, 8);
  EXPECT_LT(loss, 1e-4);
  try {
    fit("solver = \"qr\"\n", "[67, 67]", 0, 8);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("4096"), std::string::npos) << error.what();
  }
  try {
    Trainer(minimizing("classes", "type = \"levenberg_marquardt\"\n"), {}, *self_);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("train.loss: not with optimizer.type = \"levenberg_marquardt\""),
              std::string::npos)
        << error.what();
  }
}

TEST_F(MinimizerStepTest, BatchesThatAreNotTheWholeSetGoOnAfterAFailure) {
  TrainingJob part = minimizing("part", "type = \"lbfgs\"\ntolerance = 0.5\n");
  part.settings.micro_batches = 2;
  part.settings.micro_batch_size = 4;
  std::vector<std::string> outcomes;
  TrainOptions options;
  options.on_step = [&](const StepMetrics& metrics) { outcomes.push_back(metrics.minimizer->outcome); };
  Trainer trainer(part, options, *self_);
  trainer.run();
  // Some batches have a small gradient; none of them ends the run.
  EXPECT_EQ(trainer.ended(), "");
  EXPECT_EQ(outcomes.size(), 20u);
  EXPECT_GT(std::ranges::count(outcomes, "converged"), 0);
  EXPECT_GT(std::ranges::count(outcomes, "wolfe"), 0);
}

// More than there are too: no step sees more than all.
TEST_F(MinimizerStepTest, BatchesThatAreNotTheWholeSetAreWarnedOf) {
  for (const auto& [micro_batches, expected] :
       {std::pair<int64_t, std::string>{
            2, "lbfgs sees 32 of 48 samples in a step: each step is taken for another objective"},
        {4, "lbfgs sees 48 of 48 samples in a step: each step is taken for another objective"}}) {
    TrainingJob part = minimizing("warned", "type = \"lbfgs\"\n");
    part.settings.micro_batches = micro_batches;
    part.settings.last_batch = LastBatch::kPad;
    std::string warnings;
    set_log([&](LogLevel level, const std::string& message) {
      if (level == LogLevel::kWarning) warnings += message + "\n";
    });
    TrainOptions options;
    options.overwrite = true;
    Trainer(part, options, *self_);
    set_log(nullptr);
    EXPECT_TRUE(warnings.starts_with(expected)) << warnings;
  }
}

TEST_F(MinimizerStepTest, RunningStatisticsMoveOnceAStepAsWithOtherOptimizers) {
  const std::string model =
      "type = \"sequential\"\n[[model.layers]]\ntype = \"batch_norm\"\n[[model.layers]]\ntype = \"linear\"\n"
      "units = 2\n";
  const auto statistics = [&](const std::string& output, TrainingJob run) {
    run.settings.steps = 1;
    Trainer(std::move(run), {}, *self_).run();
    const State state = read_checkpoint(scratch_.file(fmt_path(output, 1)));
    std::vector<std::byte> all;
    for (const StateArray& array : state.arrays) {
      if (array.path.starts_with("/statistics/"))
        all.insert(all.end(), array.bytes.begin(), array.bytes.end());
    }
    return all;
  };
  TrainingJob plain = minimizing("plain", "type = \"gradient_descent\"\n", model);
  plain.settings.shuffle = false;
  const std::vector<std::byte> expected = statistics("plain", plain);
  EXPECT_FALSE(expected.empty());
  EXPECT_EQ(statistics("lbfgs", minimizing("lbfgs", "type = \"lbfgs\"\n", model)), expected);
}

TEST_F(MinimizerStepTest, SettingsWithoutMeaningAreRefusedByName) {
  const std::vector<std::pair<std::string, std::function<void(TrainingJob&)>>> table = {
      {"precision.compute", [](TrainingJob& job) { job.settings.compute = DType::kBF16; }},
      {"precision.loss_scale", [](TrainingJob& job) { job.settings.loss_scale.mode = LossScaling::kStatic; }},
      {"clip.global_norm", [](TrainingJob& job) { job.settings.clip.global_norm = 1.0; }},
      {"clip.value", [](TrainingJob& job) { job.settings.clip.value = 1.0; }},
      {"clip.adaptive", [](TrainingJob& job) { job.settings.clip.adaptive = 0.1; }},
      {"guard.loss_z_score", [](TrainingJob& job) { job.settings.guard.loss_z = 3.0; }},
      {"guard.norm_z_score", [](TrainingJob& job) { job.settings.guard.norm_z = 3.0; }},
      {"average.type", [](TrainingJob& job) { job.settings.average.type = AverageSettings::Type::kEma; }},
      {"optimizer.learning_rate", [](TrainingJob& job) { job.settings.learning_rate = 0.1; }},
      {"optimizer.groups", [](TrainingJob& job) { job.settings.groups = {{"*"}}; }},
      {"optimizer.decay_biases", [](TrainingJob& job) { job.settings.decay_biases = false; }},
      {"parallel.shard_optimizer", [](TrainingJob& job) { job.settings.shard_optimizer = true; }},
      {"parallel.reduction", [](TrainingJob& job) { job.settings.reduction = ReductionMode::kLibrary; }},
      {"schedule.type",
       [](TrainingJob& job) {
         job.schedule = [](const RunLength& length) {
           return make_schedule({.type = "cosine"}, 1e-3, length);
         };
       }},
      {"newton: a dense matrix is kept of at most 4096 parameters: ", [](TrainingJob& job) {
         job.model = [](const DataShape&, const ModuleBuilder& builder) {
           return std::make_unique<testing::Linear>(DataShape{{4000}, DType::kF32, 2}, builder);
         };
       }}};
  for (const auto& [key, change] : table) {
    TrainingJob refused = minimizing("refused", "type = \"newton\"\n");
    change(refused);
    try {
      Trainer(refused, {}, *self_);
      ADD_FAILURE() << key;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << key;
      const std::string message = error.what();
      EXPECT_NE(message.find(key), std::string::npos) << message;
      EXPECT_NE(message.find("newton"), std::string::npos) << message;
    }
  }
  EXPECT_THROW(optimizer_of(make_lbfgs(), -1.0), Error);
  // What gradient descent takes without a line search.
  TrainingJob refused =
      minimizing("refused", "type = \"gradient_descent\"\n[optimizer.line_search]\ntype = \"armijo\"\n");
  refused.settings.learning_rate = 0.1;
  try {
    Trainer(refused, {}, *self_);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what())
                  .find("optimizer.learning_rate: not with optimizer.line_search.type = \"armijo\": "),
              0U)
        << error.what();
  }
}

TEST_F(MinimizerStepTest, TargetsOfAnyScaleThatTheLossCanHoldAreFitted) {
  for (const double scale : {1e10, 1e18}) {
    std::string csv = "x,y\n0,0.5\n";
    for (int i = 0; i < 24; ++i) {
      const double x = 0.25 * (i - 12);
      csv += fmt::format("{},{}\n", x, scale * (1.0 + 0.5 * x));
    }
    std::ofstream(scratch_.file("line.csv")) << csv;
    for (const std::string options :
         {"type = \"trust_region\"\n", "type = \"trust_region\"\nsolver = \"exact\"\n", "type = \"lbfgs\"\n",
          "type = \"lbfgs\"\n[optimizer.line_search]\ntype = \"armijo\"\n",
          "type = \"momentum\"\n[optimizer.line_search]\ntype = \"strong_wolfe\"\n"}) {
      TrainingJob made =
          minimizing("line" + std::to_string(texts_.size()), options, "type = \"mlp\"\nhidden = []\n");
      made.settings.train_data.path = scratch_.file("line.csv");
      made.settings.train_data.classes = -1;
      made.settings.validation_fraction = 0.0;
      made.settings.micro_batch_size = 25;
      made.settings.compute = DType::kF32;
      made.settings.l2 = 0.0;
      made.settings.steps = 60;
      double first = 0.0, last = 0.0;
      TrainOptions watching;
      watching.on_step = [&](const StepMetrics& metrics) {
        if (first == 0.0) first = metrics.loss;
        last = metrics.minimizer->loss_after;
      };
      Trainer(made, watching, *self_).run();
      // What is left is the one target that is not on the line.
      EXPECT_LT(last, 0.1 * first) << options << " of targets of " << scale;
    }
  }
  std::ofstream(scratch_.file("line.csv")) << "x,y\n0,0.5\n1,1e20\n2,3e20\n";
  TrainingJob made = minimizing("overflow", "type = \"lbfgs\"\n", "type = \"mlp\"\nhidden = []\n");
  made.settings.train_data.path = scratch_.file("line.csv");
  made.settings.train_data.classes = -1;
  made.settings.validation_fraction = 0.0;
  made.settings.micro_batch_size = 3;
  made.settings.compute = DType::kF32;
  try {
    Trainer(made, {}, *self_).run();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kNumeric);
    EXPECT_NE(std::string(error.what()).find("fp32 does not hold the loss"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace lockstep
