// Mixed precision end to end: the guarantee in bf16 and fp16, overflow on one worker's data, and accuracies
// beside fp32.
#include <cstdio>
#include <map>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class Precision : public ::testing::TestWithParam<std::string> {
 protected:
  std::string compute() const { return "precision.compute=" + GetParam(); }
  ScratchDirectory scratch_;
};

INSTANTIATE_TEST_SUITE_P(Types, Precision, ::testing::Values("bf16", "fp16"),
                         [](const auto& instance) { return instance.param; });

TEST_P(Precision, EveryStepIsTheSameBitsOnAnyNumberOfWorkersAndThreadsAndThroughInterruptions) {
  for (const std::string& model : {kMlp, kCnn}) {
    SCOPED_TRACE(model);
    const std::string path = scratch_.file("run.toml");
    write_file(path, configuration(digits(), model, kAdam) + "[clip]\nglobal_norm = 0.5\n");
    const std::vector<std::string> common = {path,      "--overwrite", "--set",
                                             compute(), "--set",       "precision.growth_interval=4"};
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), common.begin(), common.end());
      return more;
    };
    train(kNoLauncher, with({"--output", scratch_.file("alone")}));
    const std::vector<std::string> expected = course_of(scratch_.file("alone"));
    const std::string digest = digest_of(checkpoint_of(scratch_.file("alone"), 12));
    for (const auto& [workers, threads] :
         all_or_first<std::pair<int, int>>(1, {{3, 1}, {1, 2}, {2, 2}, {4, 1}})) {
      const std::string output = scratch_.file(std::to_string(workers) + "x" + std::to_string(threads));
      train(workers, with({"--output", output, "--set", "device.threads=" + std::to_string(threads)}));
      EXPECT_EQ(course_of(output), expected) << workers << " workers, " << threads << " threads";
    }
    train(2, with({"--output", scratch_.file("recomputed"), "--set", "train.recompute_every=2"}));
    EXPECT_EQ(course_of(scratch_.file("recomputed")), expected);
    // In the middle of a growth interval.
    const std::string output = scratch_.file("resumed");
    train(3, with({"--output", output, "--set", "train.steps=6"}));
    train(2,
          {path, "--output", output, "--resume", "--set", compute(), "--set", "precision.growth_interval=4"});
    EXPECT_EQ(digest_of(checkpoint_of(output, 12)), digest);
  }
}

TEST_P(Precision, ACheckpointKeepsSinglePrecisionAndGoesOnOnlyInItsOwnPrecision) {
  const std::string path = scratch_.file("run.toml"), output = scratch_.file("run");
  write_file(path, configuration(digits(), kMlp, kAdam));
  train(kNoLauncher, {path, "--output", output, "--set", compute()});
  const Outcome inspected = run(kNoLauncher, {"inspect", checkpoint_of(output, 12)});
  EXPECT_EQ(inspected.out.find(" " + GetParam() + " "), std::string::npos) << inspected.out;
  const Outcome other =
      run(kNoLauncher, {"train", path, "--output", output, "--resume", "--set", "train.steps=20"});
  EXPECT_EQ(other.exit_code, 4);
  EXPECT_NE(other.err.find("precision.compute = \"fp32\", it was \"" + GetParam() +
                           "\"; a resumed run must keep it"),
            std::string::npos)
      << other.err;
}

// Mean over seeds, half of the digits being for the test: one sample is a ninth of a point, chance about two.
TEST(MixedPrecision, TheDigitsCnnIsWithinHalfAPointOfFp32) {
  const ScratchDirectory scratch;
  std::map<std::string, double> accuracy;
  for (const std::string compute : {"fp32", "bf16", "fp16"}) {
    for (const std::string seed : {"1", "2", "3"}) {
      const std::string output = scratch.file(compute + seed);
      train(kNoLauncher, {LOCKSTEP_ROOT "/configs/digits_cnn.toml", "--output", output, "--set",
                          "run.seed=" + seed, "--set", "precision.compute=" + compute, "--set",
                          "data.train=" LOCKSTEP_ROOT "/configs/data/digits.h5", "--set",
                          "data.validation_fraction=0.5", "--set", "device.threads=2"});
      double last = 0.0;
      for (const nlohmann::json& line : metrics_of(output)) last = line.value("validation_accuracy", last);
      accuracy[compute] += last / 3.0;
    }
  }
  EXPECT_GE(accuracy["fp32"], 0.97);
  EXPECT_NEAR(accuracy["bf16"], accuracy["fp32"], 0.005);
  EXPECT_NEAR(accuracy["fp16"], accuracy["fp32"], 0.005);
  std::printf("accuracies: fp32 %.4f, bf16 %.4f, fp16 %.4f\n", accuracy["fp32"], accuracy["bf16"],
              accuracy["fp16"]);
}

// Row 599 of 800 is in the last micro-batch of step 30: finite in fp32 and bf16, beyond fp16 once it is
// multiplied.
TEST(HalfPrecision, OverflowOnOneWorkersDataSkipsTheStepEverywhere) {
  const ScratchDirectory scratch;
  std::istringstream points(points_csv(800, 3));
  std::string csv, line;
  for (int row = -1; std::getline(points, line); ++row)
    csv += (row == 599 ? "60000,-60000,60000,1" : line) + '\n';
  write_file(scratch.file("points.csv"), csv);
  const std::string path = scratch.file("run.toml");
  write_file(path, replaced(configuration("train = \"" + scratch.file("points.csv") + "\"\nshuffle = false\n",
                                          kMlp, kAdam),
                            "steps = 12\n", "steps = 40\n") +
                       "[clip]\nglobal_norm = 0.5\n");
  const std::vector<std::string> half = {"--set", "precision.compute=fp16", "--set",
                                         "precision.growth_interval=8"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), path);
    more.insert(more.end(), half.begin(), half.end());
    return more;
  };
  train(kNoLauncher, with({"--output", scratch.file("1")}));
  const std::vector<std::string> expected = course_of(scratch.file("1"));
  double scale = 0.0;
  for (const nlohmann::json& step : metrics_of(scratch.file("1"))) {
    if (!step.contains("loss_scale")) continue;
    const int64_t number = step["step"];
    if (number == 29) scale = step["loss_scale"];
    if (number == 29 || number == 30) {
      EXPECT_EQ(step["gradient_norm"].is_null(), number == 30) << step;
    }
    if (number == 31) {
      EXPECT_EQ(step["loss_scale"], scale / 2.0);
    }
  }
  for (const int workers : all_or_first(1, {3, 2, 4})) {
    train(workers, with({"--output", scratch.file(std::to_string(workers))}));
    EXPECT_EQ(course_of(scratch.file(std::to_string(workers))), expected) << workers << " workers";
  }
  // bf16 has the range of fp32.
  train(2, {path, "--output", scratch.file("bf16"), "--set", "precision.compute=bf16"});
  for (const nlohmann::json& step : metrics_of(scratch.file("bf16")))
    EXPECT_EQ(step.value("skipped_steps", 0), 0);
}

}  // namespace
}  // namespace lockstep::testing
