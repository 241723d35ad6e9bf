// What the clock decides about a run: when it saves, when it leaves; never about a bit.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class Clock : public ::testing::Test {
 protected:
  Clock() {
    write_file(scratch_.file("points.csv"), points_csv(53, 3));
    write_file(
        file_,
        replaced(replaced(configuration("train = \"" + scratch_.file("points.csv") + "\"\n", kMlp, kAdam),
                          "log_every = 1\n", "log_every = 1000\n"),
                 "digest_every = 1\n", ""));
  }
  ScratchDirectory scratch_;
  const std::string file_ = scratch_.file("run.toml"), output_ = scratch_.file("run");
};

TEST_F(Clock, ARunSavesAndLeavesAfterItsMinutesAndGoesOnAsIfNothingHadHappened) {
  std::vector<std::string> arguments = {"train",    file_,
                                        "--output", output_,
                                        "--set",    "run.most_minutes=0.01",
                                        "--set",    "train.steps=100000000"};
  for (const int workers : {2, 1}) {
    const Outcome outcome = run(workers, arguments);
    EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
    EXPECT_NE(outcome.err.find("stopped by run.most_minutes = 0.01 at step "), std::string::npos)
        << outcome.err;
    const auto status = nlohmann::json::parse(bytes_of(output_ + "/status.json"));
    EXPECT_EQ(status["state"], "ended");
    EXPECT_EQ(status["exit_code"], 75);
    EXPECT_EQ(status["workers"], workers);
    EXPECT_EQ(status["step"], newest_checkpoint(output_));
    EXPECT_EQ(output_ + "/" + status["checkpoint"].get<std::string>(),
              checkpoint_of(output_, status["step"]));
    arguments.emplace_back("--resume");
  }
  const int64_t steps = newest_checkpoint(output_);
  const Outcome watched = run(kNoLauncher, {"watch", output_});
  EXPECT_EQ(watched.exit_code, 0) << watched.err;
  EXPECT_NE(watched.out.find("ended: stopped and saved; continue with --resume  "), std::string::npos)
      << watched.out;
  const std::string limit = "train.steps=" + std::to_string(steps);
  train(kNoLauncher, {file_, "--output", scratch_.file("straight"), "--set", limit});
  EXPECT_EQ(digest_of(checkpoint_of(output_, steps)),
            digest_of(checkpoint_of(scratch_.file("straight"), steps)));
}

TEST_F(Clock, CheckpointsComeByTheMinuteWhereStepsAreManyAndTheUsersCommandSeesEach) {
  const Outcome outcome =
      run(2, {"train", file_, "--output", output_, "--set", "run.most_minutes=0.03", "--set",
              "checkpoint.every_minutes=0.005", "--set", "train.steps=100000000", "--set",
              "checkpoint.after_save=basename {} >>" + scratch_.file("seen") + "; echo told; false"});
  EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
  std::istringstream seen(bytes_of(scratch_.file("seen")));
  int files = 0;
  std::string last;
  for (std::string line; std::getline(seen, line); ++files) {
    EXPECT_LT(last, line);
    last = line;
  }
  EXPECT_GE(files, 3) << outcome.err;
  EXPECT_EQ(scratch_.file("run/" + last), checkpoint_of(output_, newest_checkpoint(output_)));
  EXPECT_NE(outcome.err.find("' ended with exit code 1\n"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.out.find("told"), std::string::npos) << "standard output is the program's";
}

TEST_F(Clock, ACommandOfThisProgramIsNoWorkerOfTheJob) {
  const std::string command = LOCKSTEP_COMMAND;
  const std::string after_save = "checkpoint.after_save=" + command + " inspect {} && " + command + " eval " +
                                 file_ +
                                 " --checkpoint {} --set data.validation=" + scratch_.file("points.csv");
  const Outcome outcome = run(2, {"train", file_, "--output", output_, "--set", "train.steps=3", "--set",
                                  "checkpoint.timeout=20", "--set", after_save});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("warning: "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("\"samples\""), std::string::npos) << outcome.err;
}

TEST_F(Clock, ACommandThatIsLeftToItselfDoesNotKeepTheJob) {
  const Outcome outcome = run(2, {"train", file_, "--output", output_, "--set", "train.steps=3", "--set",
                                  "checkpoint.timeout=2", "--set", "checkpoint.after_save=sleep 60; : {}"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_LT(outcome.seconds, 30.0);
  EXPECT_NE(outcome.err.find("' is still running and left to itself after 2 s\n"), std::string::npos)
      << outcome.err;
}

TEST_F(Clock, ACommandWithoutAPlaceForThePathIsRefused) {
  const Outcome outcome =
      run(kNoLauncher, {"train", file_, "--output", output_, "--set", "checkpoint.after_save=true"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("checkpoint.after_save"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace lockstep::testing
