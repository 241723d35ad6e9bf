// A data file that becomes shorter under a run: one line and exit code 3, whoever finds it, and nothing that
// was trained is lost.
#include <gtest/gtest.h>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

TEST(ShorterFile, EndsTheRunWithItsName) {
  const ScratchDirectory scratch;
  write_file(scratch.file("points.csv"), points_csv(4000, 3));
  ASSERT_EQ(run(kNoLauncher, {"prepare", scratch.file("points.csv"), scratch.file("points.h5")}).exit_code,
            0);
  const std::string whole = bytes_of(scratch.file("points.h5"));
  for (const int workers : {kNoLauncher, 2}) {
    write_file(scratch.file("points.h5"), whole);
    const std::string output = scratch.file("out" + std::to_string(workers));
    write_file(scratch.file("run.toml"),
               replaced(configuration("train = \"" + scratch.file("points.h5") + "\"\n",
                                      "type = \"mlp\"\nhidden = [8]\n", kAdam),
                        "steps = 12", "steps = 100000000"));
    Job job(Job::on_workers(workers, {"train", scratch.file("run.toml"), "--output", output}));
    ASSERT_TRUE(job.wait_until([&] { return losses_of(output).size() > 20; })) << job.wait().err;
    std::filesystem::resize_file(scratch.file("points.h5"), whole.size() / 2);
    const Outcome outcome = job.wait();
    EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
    EXPECT_NE(outcome.err.find("points.h5: has become shorter while it is in use"), std::string::npos)
        << outcome.err;
    // Saved where it ended, and again what the run without a fault has there.
    const std::vector<int64_t> saved = checkpoints_in(output);
    ASSERT_EQ(saved.size(), 1u) << outcome.err;
    EXPECT_EQ(metrics_of(output).back()["step"], saved[0]);
    const nlohmann::json status = nlohmann::json::parse(bytes_of(output + "/status.json"));
    EXPECT_EQ(status["exit_code"], 3);
    EXPECT_EQ(status["step"], saved[0]);
    write_file(scratch.file("points.h5"), whole);
    const std::vector<std::string> to_there = {"--set", "train.steps=" + std::to_string(saved[0])};
    std::vector<std::string> again = {"train", scratch.file("run.toml"), "--output", output + "-again"};
    again.insert(again.end(), to_there.begin(), to_there.end());
    ASSERT_EQ(run(kNoLauncher, again).exit_code, 0);
    EXPECT_EQ(run(kNoLauncher,
                  {"diff", checkpoint_of(output, saved[0]), checkpoint_of(output + "-again", saved[0])})
                  .exit_code,
              0);
    EXPECT_EQ(run(kNoLauncher, {"train", scratch.file("run.toml"), "--output", output, "--resume", "--set",
                                "train.steps=" + std::to_string(saved[0] + 3)})
                  .exit_code,
              0);
  }
}

}  // namespace
}  // namespace lockstep::testing
