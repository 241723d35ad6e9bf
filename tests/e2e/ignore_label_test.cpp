// Runs on data with labels that count nothing, against runs on the data without these samples.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class IgnoreLabel : public ::testing::Test {
 protected:
  // Each third sample, at least, has a label that counts nothing; one file is without them.
  void SetUp() override {
    std::istringstream lines(points_csv(60, 3));
    std::string with, without, line;
    std::getline(lines, line);
    with = without = line + "\n";
    for (int row = 0; std::getline(lines, line); ++row) {
      const bool counts = row % 7 != 0 && row % 3 != 1 && row >= 20;
      without += counts ? line + "\n" : "";
      with += (counts ? line : line.substr(0, line.rfind(',')) + ",-1") + "\n";
      counted_ += counts ? 1 : 0;
    }
    write_file(file("with.csv"), with);
    write_file(file("without.csv"), without);
    for (const char* name : {"with", "without"}) {
      write_file(file(name + std::string(".toml")),
                 configuration("train = \"" + file(name + std::string(".csv")) + "\"\nclasses = 3\n" +
                                   (name == std::string("with") ? "ignore_label = -1\n" : ""),
                               "type = \"mlp\"\nhidden = [8]\n", kAdam));
    }
  }
  std::string file(const std::string& name) const { return scratch_.file(name); }

  ScratchDirectory scratch_;
  int64_t counted_ = 0;
};

// Of the whole data set in each step: the same objective, summed in another order.
TEST_F(IgnoreLabel, AFullBatchHasTheCourseOfTheDataWithoutThem) {
  for (const char* name : {"with", "without"}) {
    train(kNoLauncher,
          {file(name + std::string(".toml")), "--output", file(name), "--set",
           "optimizer.type=gradient_descent", "optimizer.learning_rate=0.5", "train.micro_batches=0",
           "train.class_weights=[1.0, 2.0, 0.5]", "train.label_smoothing=0.1", "precision.compute=fp64"});
  }
  const std::vector<double> with = losses_of(file("with")), without = losses_of(file("without"));
  ASSERT_EQ(with.size(), 12u);
  ASSERT_EQ(without.size(), 12u);
  for (size_t i = 0; i < with.size(); ++i) EXPECT_NEAR(with[i], without[i], 1e-12) << i;
  EXPECT_LT(with.back(), with.front());

  // And the same evaluation, whichever file the samples come from.
  std::vector<nlohmann::json> results;
  for (const char* name : {"with", "without"}) {
    const Outcome outcome =
        run(2, {"eval", file(name + std::string(".toml")), "--checkpoint", checkpoint_of(file("with"), 12),
                "--confusion", "--set", "precision.compute=fp64", "optimizer.type=gradient_descent",
                "train.micro_batches=0", "train.class_weights=[1.0, 2.0, 0.5]"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    results.push_back(nlohmann::json::parse(outcome.out));
  }
  EXPECT_EQ(results[0]["samples"], counted_);
  EXPECT_EQ(results[1]["samples"], counted_);
  EXPECT_EQ(results[0]["confusion"], results[1]["confusion"]);
  EXPECT_EQ(results[0]["accuracy"], results[1]["accuracy"]);
  EXPECT_NEAR(results[0]["loss"].get<double>(), results[1]["loss"].get<double>(), 1e-12);
}

TEST_F(IgnoreLabel, IsTheSameBitsOnAnyNumberOfWorkersResumedAndFromAPreparedFile) {
  const std::string toml = file("with.toml");
  train(kNoLauncher, {toml, "--output", file("alone")});
  const std::string digest = digest_of(checkpoint_of(file("alone"), 12));
  for (const int workers : {2, 3}) {
    const std::string output = file("on_" + std::to_string(workers));
    train(workers, {toml, "--output", output});
    EXPECT_EQ(digest_of(checkpoint_of(output, 12)), digest) << workers;
    EXPECT_EQ(course_of(output), course_of(file("alone")));
  }
  const Outcome prepared = run(
      kNoLauncher, {"prepare", file("with.csv"), file("with.h5"), "--classes", "3", "--ignore-label", "-1"});
  ASSERT_EQ(prepared.exit_code, 0) << prepared.err;
  train(2, {toml, "--output", file("mapped"), "--set", "data.train=" + file("with.h5")});
  EXPECT_EQ(losses_of(file("mapped")), losses_of(file("alone")));

  train(kNoLauncher, {toml, "--output", file("half"), "--set", "train.steps=5"});
  train(3, {toml, "--output", file("half"), "--resume"});
  EXPECT_EQ(digest_of(checkpoint_of(file("half"), 12)), digest);
  const Outcome other = run(kNoLauncher, {"train", toml, "--output", file("half"), "--resume", "--set",
                                          "data.ignore_label=7", "data.train=" + file("without.csv")});
  EXPECT_EQ(other.exit_code, 4) << other.err;
}

// In order: of three global batches of an epoch the second holds nothing else.
TEST_F(IgnoreLabel, ABatchInWhichNothingCountsIsSpentWithoutAnUpdate) {
  std::istringstream lines(points_csv(60, 3));
  std::string text, line;
  for (int row = -1; std::getline(lines, line); ++row)
    text += (row >= 20 && row < 40 ? line.substr(0, line.rfind(',')) + ",-1" : line) + "\n";
  write_file(file("holes.csv"), text);
  std::string digest;
  for (const int workers : {kNoLauncher, 3}) {
    const std::string output = file("holes_" + std::to_string(workers));
    train(workers, {file("with.toml"), "--output", output, "--set", "data.train=" + file("holes.csv"),
                    "data.shuffle=false"});
    const std::vector<double> losses = losses_of(output);
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_EQ(std::isnan(losses[i]), i % 3 == 1) << i;
    const Outcome state = run(kNoLauncher, {"inspect", checkpoint_of(output, 12)});
    EXPECT_TRUE(std::regex_search(state.out, std::regex("/optimizer/updates +8\\b"))) << state.out;
    const std::string found = digest_of(checkpoint_of(output, 12));
    if (digest.empty()) digest = found;
    EXPECT_EQ(found, digest) << workers;
  }
}

TEST_F(IgnoreLabel, PredictionsAreOfEverySample) {
  train(kNoLauncher, {file("with.toml"), "--output", file("out")});
  const Outcome outcome =
      run(2, {"predict", file("with.toml"), "--checkpoint", checkpoint_of(file("out"), 12), "--data",
              file("with.csv"), "--output", file("p.h5")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("60 samples"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace lockstep::testing
