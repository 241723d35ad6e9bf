// What a run survives: workers killed, writes cut short, full disks, losses that blow up.
#include <sys/mount.h>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class Faults : public ::testing::Test {
 protected:
  Faults() {
    write_file(scratch_.file("points.csv"), points_csv(53, 3));
    write_file(scratch_.file("run.toml"),
               configuration("train = \"" + scratch_.file("points.csv") + "\"\n", kMlp, kAdam));
  }
  std::vector<std::string> training(const std::string& output,
                                    const std::vector<std::string>& settings) const {
    std::vector<std::string> arguments = {"train", scratch_.file("run.toml"), "--output", output};
    for (const std::string& setting : settings) {
      arguments.emplace_back("--set");
      arguments.push_back(setting);
    }
    return arguments;
  }
  // Resumes on two workers for a few more steps; the state must be that of a run that was never interrupted.
  void expect_resumes(const std::string& output) const {
    const int64_t steps = newest_checkpoint(output) + 4;
    const std::string limit = "train.steps=" + std::to_string(steps), straight = scratch_.file("straight");
    std::vector<std::string> arguments = training(output, {limit});
    arguments.emplace_back("--resume");
    const Outcome resumed = run(2, arguments);
    ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
    arguments = training(straight, {limit, "parallel.digest_every=0"});
    arguments.emplace_back("--overwrite");
    const Outcome uninterrupted = run(kNoLauncher, arguments);
    ASSERT_EQ(uninterrupted.exit_code, 0) << uninterrupted.err;
    EXPECT_EQ(digest_of(checkpoint_of(output, steps)), digest_of(checkpoint_of(straight, steps)));
    EXPECT_EQ(losses_of(output), losses_of(straight));
  }

  ScratchDirectory scratch_;
};

const std::string kEndless = "train.steps=1000000000";

TEST_F(Faults, AWorkerThatIsKilledEndsTheJobWithinSecondsAndLeavesUsableCheckpoints) {
  for (const int rank : {0, 1, 2}) {
    SCOPED_TRACE(rank);
    const std::string output = scratch_.file("killed" + std::to_string(rank));
    Job job(Job::on_workers(3, training(output, {kEndless, "checkpoint.every=5"}), true));
    ASSERT_TRUE(job.wait_until([&] { return newest_checkpoint(output) >= 10; })) << job.err();
    job.signal_rank(rank, SIGKILL);
    const auto killed = std::chrono::steady_clock::now();
    const Outcome outcome = job.wait(30.0);
    EXPECT_GT(outcome.exit_code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("process rank " + std::to_string(rank)), std::string::npos)
        << "mpirun names it: " << outcome.err;
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - killed).count(), 15.0);
    expect_resumes(output);
  }
}

TEST_F(Faults, AWorkerThatHangsIsGivenUpAfterTheTimeoutAndTheOthersNameIt) {
  const std::string output = scratch_.file("hung");
  Job job(Job::on_workers(2, training(output, {kEndless, "checkpoint.every=5", "parallel.timeout=1.5"})));
  ASSERT_TRUE(job.wait_until([&] { return newest_checkpoint(output) >= 5; })) << job.err();
  job.signal_rank(1, SIGSTOP);
  const Outcome outcome = job.wait(30.0);
  EXPECT_EQ(outcome.exit_code, 6) << outcome.err;
  // Whoever waits says so: the host, which knows for whom, or on GPUs the one that watches over NCCL, which
  // does not.
  const bool by_host =
      outcome.err.find("on rank 0: not finished after 1.5 s: waiting for rank 1") != std::string::npos;
  const bool by_watch =
      on_gpu() &&
      outcome.err.find("on rank 0: not finished after 1.5 s: some worker did not join") != std::string::npos;
  EXPECT_TRUE(by_host || by_watch) << outcome.err;
  expect_resumes(output);
}

// With a checkpoint at every step a run is nearly always in the middle of a save.
TEST_F(Faults, KilledDuringASaveThePreviousCheckpointIsUsable) {
  Chance chance;
  SCOPED_TRACE(chance.description());
  const std::string output = scratch_.file("saving");
  std::vector<std::string> arguments =
      training(output, {kEndless, "checkpoint.every=1", "parallel.digest_every=0"});
  for (int cycle = 0; cycle < 10; ++cycle) {
    const int64_t before = newest_checkpoint(output);
    Job job(Job::on_workers(kNoLauncher, arguments));
    ASSERT_TRUE(job.wait_until([&] { return newest_checkpoint(output) > before; })) << job.err();
    std::this_thread::sleep_for(std::chrono::microseconds(chance.between(0, 30000)));
    job.kill_all();
    for (const int64_t step : checkpoints_in(output)) digest_of(checkpoint_of(output, step));
    metrics_of(output);
    if (cycle == 0) arguments.emplace_back("--resume");
  }
  expect_resumes(output);
  for (const auto& entry : std::filesystem::directory_iterator(output)) {
    EXPECT_EQ(entry.path().filename().string().find(".tmp"), std::string::npos)
        << entry << " was left behind";
  }
}

TEST_F(Faults, AFullDiskExitsWith4KeepsTheOldCheckpointAndTheRunGoesOnOnceThereIsRoom) {
  SmallDisk disk("1m");
  if (!disk.mounted()) GTEST_SKIP() << "needs the right to mount a small tmpfs";
  for (const int workers : {kNoLauncher, 2}) {
    SCOPED_TRACE(workers);
    const std::string output = disk.file(std::to_string(workers)), ballast = disk.file("ballast");
    write_file(ballast, std::string(600 << 10, 'x'));
    // metrics.jsonl grows, and once it finds no room the checkpoints that keep its lines, until the disk is
    // full.
    const Outcome outcome = run(workers, training(output, {kEndless, "checkpoint.every=20",
                                                           "checkpoint.keep=2", "parallel.digest_every=0"}));
    EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
    EXPECT_NE(outcome.err.find("No space left on device"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("error: "), outcome.err.rfind("error: ")) << "said once: " << outcome.err;
    const std::vector<int64_t> left = checkpoints_in(output);
    ASSERT_FALSE(left.empty());
    for (const int64_t step : left) digest_of(checkpoint_of(output, step));

    std::filesystem::remove(ballast);
    expect_resumes(output);
    std::filesystem::remove_all(output);
  }
}

// The limit of a batch system, or `ulimit -f`: SIGXFSZ would end the process without a word.
TEST_F(Faults, AFileSizeLimitExitsWith4AndKeepsTheOldCheckpoint) {
  const std::string output = scratch_.file("limited");
  ASSERT_EQ(run(kNoLauncher, training(output, {"train.steps=6"})).exit_code, 0);
  std::vector<std::string> command = {"bash", "-c", "ulimit -f 8; exec \"$@\"", "bash"};
  for (const std::string& word : Job::on_workers(
           kNoLauncher, training(output, {"train.steps=40", "train.log_every=1000", "checkpoint.every=10"})))
    command.push_back(word);
  command.emplace_back("--resume");
  const Outcome outcome = Job(command).wait(30.0);
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  EXPECT_NE(outcome.err.find("File too large"), std::string::npos) << outcome.err;
  EXPECT_EQ(checkpoints_in(output), std::vector<int64_t>{6});
  expect_resumes(output);
}

TEST_F(Faults, DivergenceExitsWith5NamesTheStepAndKeepsTheCheckpointBefore) {
  for (const int workers : {kNoLauncher, 3}) {
    const std::string output = scratch_.file("diverged" + std::to_string(workers));
    const Outcome start = run(workers, training(output, {"train.steps=6"}));
    ASSERT_EQ(start.exit_code, 0) << start.err;
    std::vector<std::string> arguments =
        training(output, {"train.steps=200", "optimizer.learning_rate=1e25"});
    arguments.emplace_back("--resume");
    const Outcome outcome = run(workers, arguments);
    EXPECT_EQ(outcome.exit_code, 5) << outcome.err;
    const size_t at = outcome.err.find("error: step ");
    ASSERT_NE(at, std::string::npos) << outcome.err;
    EXPECT_EQ(at, outcome.err.rfind("error: ")) << "said once: " << outcome.err;
    EXPECT_NE(outcome.err.find(": training diverged: loss "), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("; the newest checkpoint is of step 6\n"), std::string::npos) << outcome.err;
    // Every finished step has its line, and the step that failed has none.
    EXPECT_EQ(losses_of(output).size() + 1, std::stoul(outcome.err.substr(at + 12)));
    EXPECT_EQ(checkpoints_in(output), std::vector<int64_t>{6});
    // The history after the checkpoint goes, and training is well again.
    expect_resumes(output);
  }
}

// The loss of a step tells of the update before it; nothing tells of the last one.
TEST_F(Faults, ALastUpdateThatOverflowsExitsWith5AndIsNotSaved) {
  const std::string output = scratch_.file("overflowed");
  const Outcome outcome =
      run(kNoLauncher, training(output, {"train.steps=1", "optimizer.type=sgd",
                                         "optimizer.learning_rate=1e38", "optimizer.weight_decay=1e30"}));
  EXPECT_EQ(outcome.exit_code, 5) << outcome.err;
  EXPECT_NE(outcome.err.find("step 1: training diverged: "), std::string::npos) << outcome.err;
  EXPECT_TRUE(checkpoints_in(output).empty());
}

TEST_F(Faults, ResumingDropsTheLinesAfterTheCheckpoint) {
  const std::string output = scratch_.file("lines");
  Job job(Job::on_workers(2, training(output, {kEndless, "checkpoint.every=7"})));
  ASSERT_TRUE(job.wait_until([&] { return newest_checkpoint(output) >= 14; })) << job.err();
  job.kill_all();
  const int64_t newest = newest_checkpoint(output);
  write_file(output + "/metrics.jsonl", bytes_of(output + "/metrics.jsonl") +
                                            "{\"step\":" + std::to_string(newest + 1) +
                                            ",\"loss\":99}\n{\"step\":" + std::to_string(newest + 2));
  expect_resumes(output);
  int64_t expected = 1;
  for (const nlohmann::json& line : metrics_of(output)) {
    if (line.contains("loss")) {
      EXPECT_EQ(line["step"], expected++);
    }
  }
  EXPECT_EQ(expected, newest + 5);
}

}  // namespace
}  // namespace lockstep::testing
