// Steps that are skipped, by loss scaling and by the guards: alike on any number of workers, and leaving no
// trace but the spent batch.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

constexpr const char* kTooLarge = "precision.initial_scale=1048576";  // fp16 ends at 65504

class SkippedSteps : public ::testing::Test {
 protected:
  // 40 steps over as many points as they need, one epoch; row 599, of step 30 and the last worker, lies `far`
  // off.
  std::string file(double far, const std::string& more) {
    std::istringstream points(points_csv(800, 3));
    std::string csv, line;
    for (int row = -1; std::getline(points, line); ++row) {
      const std::string off = std::to_string(far);
      csv += (row == 599 && far > 0.0 ? off + ",-" + off + "," + off + ",1" : line) + '\n';
    }
    write_file(scratch_.file("points.csv"), csv);
    write_file(scratch_.file("test.csv"), points_csv(53, 3));
    std::string text = configuration("train = \"" + scratch_.file("points.csv") + "\"\nvalidation = \"" +
                                         scratch_.file("test.csv") + "\"\nshuffle = false\n",
                                     kMlp, "type = \"nesterov\"\nlearning_rate = 0.02\n");
    text = replaced(text, "steps = 12\n", "steps = 40\n");
    write_file(scratch_.file("run.toml"), text + more);
    return scratch_.file("run.toml");
  }

  // The same course on 1, 2, 3 and 4 workers, and when stopped every few steps and resumed on others.
  void expect_lockstep(const std::string& file, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), file);
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), arguments.begin(), arguments.end());
      return more;
    };
    train(kNoLauncher, with({"--output", scratch_.file("1")}));
    const std::vector<std::string> expected = course_of(scratch_.file("1"));
    for (const int workers : all_or_first(1, {3, 2, 4})) {
      const std::string output = scratch_.file(std::to_string(workers));
      train(workers, with({"--output", output}));
      EXPECT_EQ(course_of(output), expected) << workers << " workers";
    }
    const std::string output = scratch_.file("resumed");
    int workers = 1;
    for (const int steps : {8, 30, 40}) {
      std::vector<std::string> part =
          with({"--output", output, "--set", "train.steps=" + std::to_string(steps)});
      if (steps > 8) part.emplace_back("--resume");
      train(workers, part);
      workers = workers % 4 + 1;
    }
    EXPECT_EQ(digest_of(checkpoint_of(output, 40)), digest_of(checkpoint_of(scratch_.file("1"), 40)));
  }

  std::vector<nlohmann::json> steps_of(const std::string& name) {
    std::vector<nlohmann::json> steps;
    for (nlohmann::json& line : metrics_of(scratch_.file(name))) {
      if (line.contains("learning_rate")) steps.push_back(line);
    }
    return steps;
  }

  ScratchDirectory scratch_;
};

TEST_F(SkippedSteps, AStaticScaleThatFitsChangesNoBit) {
  const std::string path = file(0.0, "[clip]\nglobal_norm = 0.2\n");
  train(kNoLauncher, {path, "--output", scratch_.file("plain"), "--set", "train.l2=0.01"});
  const auto plain = steps_of("plain");
  for (const std::string scale : {"1024", "18446744073709551616.0"}) {  // 2^64 is the largest
    SCOPED_TRACE(scale);
    train(kNoLauncher, {path, "--output", scratch_.file(scale), "--set", "precision.loss_scale=static",
                        "--set", "precision.initial_scale=" + scale, "--set", "train.l2=0.01"});
    const auto scaled = steps_of(scale);
    ASSERT_EQ(plain.size(), scaled.size());
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_EQ(plain[i]["loss"], scaled[i]["loss"]) << i;
      EXPECT_EQ(plain[i]["gradient_norm"], scaled[i]["gradient_norm"])
          << i << ": unscaled before it is logged and clipped";
      EXPECT_EQ(scaled[i]["loss_scale"], std::stod(scale));
    }
    const Outcome difference = run(kNoLauncher, {"diff", checkpoint_of(scratch_.file("plain"), 40),
                                                 checkpoint_of(scratch_.file(scale), 40)});
    EXPECT_EQ(difference.out.find("/parameters/"), std::string::npos) << difference.out;
    EXPECT_EQ(difference.out.find("/optimizer/"), std::string::npos) << difference.out;
  }
}

TEST_F(SkippedSteps, ADynamicScaleOverflowsGrowsAndIsTheSameHistoryEverywhere) {
  const std::string path = file(0.0, "[clip]\nglobal_norm = 0.2\n[schedule]\nwarmup = 100\n");
  expect_lockstep(
      path, {"--set", "precision.compute=fp16", "--set", kTooLarge, "--set", "precision.growth_interval=5"});
  // A skipped step does not advance the schedule: its learning rate comes again.
  const auto steps = steps_of("1");
  ASSERT_EQ(steps.size(), 40u);
  int64_t skipped = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool skips = steps[i]["skipped_steps"] > skipped;
    skipped = steps[i]["skipped_steps"];
    EXPECT_EQ(steps[i]["gradient_norm"].is_null(), skips) << i;
    if (i + 1 == steps.size()) break;
    EXPECT_EQ(steps[i + 1]["learning_rate"] == steps[i]["learning_rate"], skips) << i;
    if (!skips) continue;
    EXPECT_EQ(steps[i + 1]["loss_scale"], steps[i]["loss_scale"].get<double>() / 2) << i;
  }
  EXPECT_GE(skipped, 2);
  EXPECT_LE(skipped, 20);
}

TEST_F(SkippedSteps, TooManyInARowStopWithTheNumericExitCode) {
  const std::string path = file(0.0, "");
  for (const int workers : {kNoLauncher, 3}) {
    const Outcome outcome =
        run(workers, {"train", path, "--output", scratch_.file("stopped"), "--overwrite", "--set",
                      "precision.loss_scale=static", "--set", "precision.compute=fp16", "--set", kTooLarge,
                      "--set", "precision.stop_after_skips=3", "--set", "train.micro_batch_size=16"});
    EXPECT_EQ(outcome.exit_code, 5) << outcome.err;
    EXPECT_NE(
        outcome.err.find(
            "step 3: training diverged: 3 steps in a row whose gradient is not finite, loss scale 1048576"),
        std::string::npos)
        << outcome.err;
  }
}

TEST_F(SkippedSteps, TheGuardSkipsTheStepOfAnOutlierAlikeEverywhere) {
  const std::string path = file(30.0, "[guard]\nloss_z_score = 8\nnorm_z_score = 8\nwindow = 6\n");
  expect_lockstep(path, {"--set", "model.dropout=0"});
  const auto steps = steps_of("1");
  ASSERT_EQ(steps.size(), 40u);
  for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i]["skipped_steps"], i >= 29 ? 1 : 0) << i;
}

TEST_F(SkippedSteps, ALossAboveTheLargestAllowedStopsTheRun) {
  const std::string path = file(0.0, "");
  const Outcome outcome =
      run(2, {"train", path, "--output", scratch_.file("stopped"), "--set", "guard.largest_loss=0.5"});
  EXPECT_EQ(outcome.exit_code, 5);
  EXPECT_NE(outcome.err.find("step 1: training diverged: loss "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(" > guard.largest_loss = 0.5; there is no checkpoint yet"), std::string::npos)
      << outcome.err;
}

// Whether the step counts is settled first: an overflow that the scale answers is no divergence.
TEST_F(SkippedSteps, ALossThatOverflowsUnderLossScalingIsSkippedNotTakenForDivergence) {
  const std::string path = file(60000.0, "");
  train(2, {path, "--output", scratch_.file("skipped"), "--set", "precision.compute=fp16", "--set",
            "guard.largest_loss=1000"});
  const auto steps = steps_of("skipped");
  ASSERT_EQ(steps.size(), 40u);
  EXPECT_EQ(steps[29]["skipped_steps"].get<int64_t>(), steps[28]["skipped_steps"].get<int64_t>() + 1);
}

TEST_F(SkippedSteps, SettingsThatCannotActAreRefused) {
  const std::string path = file(0.0, "");
  const std::vector<std::pair<std::vector<std::string>, std::string>> refused = {
      {{"clip.value=1e-50"}, "clip.value: must be 0 (off) or at least 1e-30, got 1e-50"},
      {{"clip.adaptive=1e-40"}, "clip.adaptive: must be 0 (off) or at least 1e-30"},
      {{"precision.loss_scale=off", "precision.initial_scale=1024"},
       "precision.initial_scale: has no effect with loss_scale = \"off\""},
      {{"precision.loss_scale=static", "precision.growth_interval=5"},
       "precision.growth_interval: has no effect with loss_scale = \"static\""},
      {{"guard.window=64"}, "guard.window: has no effect without loss_z_score or norm_z_score"},
      {{"average.type=swa", "average.start=41"}, "average.start: the run has 40 steps, got 41"},
      {{"schedule.type=plateau", "train.evaluate_every=41"},
       "schedule.type: plateau never sees the validation loss: train.evaluate_every = 41, the run has 40 "
       "steps"},
  };
  for (const auto& [settings, message] : refused) {
    std::vector<std::string> arguments = {"train", path, "--output", scratch_.file("refused")};
    for (const std::string& setting : settings) {
      arguments.emplace_back("--set");
      arguments.push_back(setting);
    }
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 2) << message;
    EXPECT_NE(outcome.err.find(message), std::string::npos) << outcome.err;
  }
}

TEST_F(SkippedSteps, APlateauLowersTheRateAlikeEverywhere) {
  const std::string path =
      file(0.0, "[schedule]\ntype = \"plateau\"\nfactor = 0.5\npatience = 1\nthreshold = 0.05\n");
  expect_lockstep(path, {"--set", "train.evaluate_every=2"});
  const auto steps = steps_of("1");
  EXPECT_LT(steps.back()["learning_rate"], steps.front()["learning_rate"]);
  // The evaluation at the end of a run that is extended later does not count when it was not due.
  const std::string output = scratch_.file("extended");
  const std::vector<std::string> every = {path, "--output", output, "--set", "train.evaluate_every=2"};
  std::vector<std::string> part = every;
  part.insert(part.end(), {"--set", "train.steps=7"});
  train(kNoLauncher, part);
  part = every;
  part.emplace_back("--resume");
  train(kNoLauncher, part);
  EXPECT_EQ(digest_of(checkpoint_of(output, 40)), digest_of(checkpoint_of(scratch_.file("1"), 40)));
  const Outcome never = run(kNoLauncher, {"train", path, "--output", scratch_.file("never")});
  EXPECT_EQ(never.exit_code, 2);
  EXPECT_NE(never.err.find("schedule.type: plateau follows the validation loss"), std::string::npos)
      << never.err;
}

}  // namespace
}  // namespace lockstep::testing
