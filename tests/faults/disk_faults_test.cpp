// Files that cannot be written or read, disks that take their time, names that are taken: what it means for a
// run's checkpoints.
#include <fcntl.h>
#include <sys/stat.h>

#include "faults/faulty_run.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

class DiskFaults : public FaultyRun {};

// ---- telemetry does not decide

TEST_F(DiskFaults, MetricsOnAFullDiskAreAWarningAndTheCheckpointKeepsThem) {
  for (const int count : {1, 2}) {
    SCOPED_TRACE(count);
    const std::string output = scratch_.file(std::to_string(count));
    const Outcome outcome =
        run_with("write:/metrics.jsonl=ENOSPC", workers(count), training(output, {"checkpoint.every=5"}));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(FaultyRun::count(outcome.err, "warning: "), 1u) << outcome.err;
    EXPECT_NE(outcome.err.find(output + "/metrics.jsonl: cannot be written: No space left on device"),
              std::string::npos)
        << outcome.err;
    EXPECT_EQ(checkpoints_in(output), (std::vector<int64_t>{5, 10, 12}));
    EXPECT_TRUE(metrics_of(output).empty());
    // The next run has room again, and the lines of the checkpoint.
    complete(kNoLauncher, training(output, {"train.steps=14"}, "--resume"));
    EXPECT_EQ(losses_of(output).size(), 14u);
  }
}

TEST_F(DiskFaults, LinesThatFoundNoRoomAreWrittenWhenThereIsSome) {
  const std::string output = scratch_.file("room");
  const Outcome outcome =
      run_with("write:/metrics.jsonl#1=ENOSPC", {}, training(output, {"checkpoint.every=3"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(losses_of(output).size(), 12u);
}

TEST_F(DiskFaults, RecordsThatCannotBeWrittenChangeNoExitCode) {
  const std::string faults =
      "rename:/loss.svg=EROFS rename:/configuration.toml=EACCES rename:/status.json=ENOSPC";
  const std::string output = scratch_.file("done"), stopped = scratch_.file("stopped");
  const Outcome outcome = run_with(faults, {}, training(output));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* name : {"/loss.svg", "/configuration.toml", "/status.json"}) {
    EXPECT_NE(outcome.err.find("warning: " + output + name + ": cannot be written: "), std::string::npos)
        << outcome.err;
  }
  EXPECT_EQ(count(outcome.err, "loss plot"), 0u) << "there is none: " << outcome.err;
  EXPECT_EQ(count(outcome.err, "metrics     "), 1u) << outcome.err;
  Job job(with_faults(faults, {}, training(stopped, {kEndless})));
  ASSERT_TRUE(job.wait_until([&] { return job.err().find("step ") != std::string::npos; })) << job.err();
  job.signal(SIGTERM);
  EXPECT_EQ(job.wait(30.0).exit_code, 75);
  EXPECT_EQ(checkpoints_in(stopped).size(), 1u);
}

// ---- names that belong to somebody else

TEST_F(DiskFaults, SymbolicLinksInTheOutputDirectoryAreNotFollowed) {
  const std::string output = scratch_.file("links"), precious = scratch_.file("precious");
  fs::create_directory(output);
  write_file(precious, "precious");
  for (const char* refused : {"/metrics.jsonl", "/.lockstep.lock"}) {
    fs::remove(output + refused);
    fs::create_symlink(precious, output + refused);
    const Outcome outcome = run(kNoLauncher, training(output));
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_NE(outcome.err.find(output + refused), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("symbolic link"), std::string::npos) << outcome.err;
    EXPECT_EQ(bytes_of(precious), "precious");
    fs::remove(output + refused);
  }
  for (const char* replaced : {"/loss.svg", "/configuration.toml", "/status.json"})
    fs::create_symlink(precious, output + replaced);
  complete(kNoLauncher, training(output));
  EXPECT_EQ(bytes_of(precious), "precious");
  for (const char* replaced : {"/loss.svg", "/configuration.toml", "/status.json"}) {
    EXPECT_FALSE(fs::is_symlink(output + replaced));
    EXPECT_GT(bytes_of(output + replaced).size(), 100u);
  }
}

TEST_F(DiskFaults, APipeInThePlaceOfTheMetricsIsRefusedAtOnce) {
  const std::string output = scratch_.file("pipe");
  fs::create_directory(output);
  ASSERT_EQ(::mkfifo((output + "/metrics.jsonl").c_str(), 0666), 0);
  const Outcome outcome = run(kNoLauncher, training(output), 20.0);
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
}

TEST_F(DiskFaults, ADirectoryWhereACheckpointIsDueMakesWay) {
  const std::string output = scratch_.file("directory");
  for (const char* name : {"/below", ".directory"}) fs::create_directories(checkpoint_of(output, 6) + name);
  const Outcome outcome = run(kNoLauncher, training(output, {"checkpoint.every=3"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("a directory where a checkpoint is due"), std::string::npos) << outcome.err;
  EXPECT_TRUE(fs::is_directory(checkpoint_of(output, 6) + ".directory-2/below")) << "nothing in it is lost";
  fs::create_directories(checkpoint_of(output, 100));
  complete(2, training(output, {"train.steps=15"}, "--resume"));
  EXPECT_EQ(checkpoints_in(output).back(), 100);  // the directory, which is left alone
}

// The next file to be opened would get the number of the log, or the one after that.
TEST_F(DiskFaults, ClosedStandardDescriptorsDoNotReachTheFilesOfARun) {
  for (const std::string closed : {"2>&-", "0>&- 2>&-", "0>&- 1>&- 2>&-"}) {
    SCOPED_TRACE(closed);
    const std::string output = scratch_.file("closed " + closed);
    std::vector<std::string> command = {"bash", "-c", "exec \"$@\" " + closed, "bash", LOCKSTEP_COMMAND};
    for (const std::string& argument : training(output)) command.push_back(argument);
    EXPECT_EQ(Job(command).wait(30.0).exit_code, 0);
    EXPECT_EQ(metrics_of(output).size(), 12u);
    const std::string lock = bytes_of(output + "/.lockstep.lock");
    EXPECT_EQ(lock.find('\n'), lock.size() - 1) << lock;
    digest_of(checkpoint_of(output, 12));
  }
}

// ---- reading

TEST_F(DiskFaults, ADirectoryThatIsDeletedEndsTheRunBeforeItsNextCheckpointIsDue) {
  for (const int count : {1, 2}) {
    SCOPED_TRACE(count);
    const std::string output = scratch_.file("deleted" + std::to_string(count));
    Job job(Job::on_workers(count, training(output, {kEndless})));
    ASSERT_TRUE(job.wait_until([&] { return job.err().find("step ") != std::string::npos; })) << job.err();
    fs::remove_all(output);
    const Outcome outcome = job.wait(30.0);
    EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
    EXPECT_NE(outcome.err.find("error: " + output + ": was deleted or replaced"), std::string::npos)
        << outcome.err;
    EXPECT_FALSE(fs::exists(output));
  }
}

TEST_F(DiskFaults, ACheckpointThatCannotBeReadIsNotPassedOver) {
  const std::string output = scratch_.file("unreadable"), newest = checkpoint_of(output, 12);
  complete(kNoLauncher, training(output, {"checkpoint.every=6"}));
  ASSERT_EQ(checkpoints_in(output), (std::vector<int64_t>{6, 12}));
  for (const std::string fault : {"read:/step-000000012.h5=EIO", "read:/step-000000012.h5#2=ESTALE",
                                  "open:/step-000000012.h5=EMFILE", "open:/step-000000012.h5=EACCES",
                                  "open:/step-000000012.h5=ENOMEM", "open:/step-000000012.h5#2=EIO"}) {
    SCOPED_TRACE(fault);
    const bool alone = fault.ends_with("EIO");
    const Outcome outcome = run_with(fault, alone ? std::vector<std::string>() : workers(2),
                                     training(output, {"train.steps=15"}, "--resume"));
    EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
    EXPECT_NE(outcome.err.find(newest), std::string::npos) << outcome.err;
    EXPECT_EQ(FaultyRun::count(outcome.err, "error: "), 1u) << outcome.err;
  }
  // One whose seal does not hold is.
  std::string bytes = bytes_of(newest);
  bytes[3000] = static_cast<char>(bytes[3000] ^ 1);
  overwrite(newest, bytes);
  const Outcome outcome = run(kNoLauncher, training(output, {"train.steps=15"}, "--resume"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("skipped checkpoint " + newest + ": damaged"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("at step 6"), std::string::npos) << outcome.err;
}

TEST_F(DiskFaults, ACheckpointOfAnotherStepThanItsNameSaysIsRefused) {
  const std::string output = scratch_.file("renamed");
  complete(kNoLauncher, training(output));
  fs::rename(checkpoint_of(output, 12), checkpoint_of(output, 700));
  const Outcome outcome = run(kNoLauncher, training(output, {"train.steps=15"}, "--resume"));
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  EXPECT_NE(outcome.err.find("step-000000700.h5: holds step 12"), std::string::npos) << outcome.err;
}

// ---- slow disks

TEST_F(DiskFaults, ASaveThatTakesLongerThanAStepMayIsWaitedFor) {
  const std::string output = scratch_.file("slow");
  const std::vector<std::string> settings = {"parallel.timeout=5", "checkpoint.every=4", "train.steps=8",
                                             "checkpoint.timeout=60"};
  const Outcome outcome = run_with("fsync#1=sleep=8 fsync=sleep=1", workers(2), training(output, settings));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_GT(outcome.seconds, 8.0);
  EXPECT_EQ(checkpoints_in(output), (std::vector<int64_t>{4, 8}));
}

TEST_F(DiskFaults, ASaveThatNeverEndsIsGivenUp) {
  const std::string output = scratch_.file("never");
  const Outcome outcome = run_with("fsync=hang", workers(2), training(output, {"checkpoint.timeout=6"}));
  EXPECT_EQ(outcome.exit_code, 6) << outcome.err;
  EXPECT_NE(outcome.err.find("(finish) on rank 1: not finished after 6 s: waiting for rank 0 on host "),
            std::string::npos)
      << outcome.err;
}

// Of one worker, whom nobody else gives up; while it trains on the next save waits for the one before.
TEST_F(DiskFaults, ASaveOfOneWorkerThatNeverEndsIsGivenUpToo) {
  for (const std::string every : {"", "checkpoint.every=4"}) {
    SCOPED_TRACE(every);
    const std::string output = scratch_.file("alone" + every);
    std::vector<std::string> settings = {"checkpoint.timeout=12", "train.steps=9"};
    if (!every.empty()) settings.push_back(every);
    const Outcome outcome = run_with("fsync=hang", {}, training(output, settings));
    EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
    EXPECT_LT(outcome.seconds, 30.0);
    EXPECT_EQ(count(outcome.err, "still saving to " + output + ", for 10 s by now"), 1u) << outcome.err;
    EXPECT_EQ(count(outcome.err, "error: "), 1u) << outcome.err;
    EXPECT_NE(outcome.err.find(output + ": saving is not finished after 12 s (checkpoint.timeout): "),
              std::string::npos)
        << outcome.err;
    EXPECT_TRUE(checkpoints_in(output).empty());
  }
}

// Others would take rank 0 for lost while it waits for the command of the checkpoint before.
TEST_F(DiskFaults, ACommandAfterACheckpointDoesNotDelayTheReasonOfAFailure) {
  const Outcome outcome =
      run_with("rename:/step-000000008.h5=ENOSPC", workers(2),
               training(scratch_.file("reason"), {kEndless, "checkpoint.every=4", "parallel.timeout=4",
                                                  "checkpoint.after_save=sleep 60; : {}"}));
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  EXPECT_NE(outcome.err.find("error: " + scratch_.file("reason") + "/step-000000008.h5: "), std::string::npos)
      << outcome.err;
  EXPECT_EQ(FaultyRun::count(outcome.err, "error: "), 1u) << outcome.err;
}

// ---- --overwrite

class Overwrite : public FaultyRun {
 protected:
  Overwrite() {
    complete(kNoLauncher, training(output_, {"checkpoint.every=5"}));
    before_ = digest_of(checkpoint_of(output_, 12));
  }
  void expect_untouched() {
    EXPECT_EQ(checkpoints_in(output_), (std::vector<int64_t>{5, 10, 12}));
    EXPECT_EQ(digest_of(checkpoint_of(output_, 12)), before_);
    EXPECT_FALSE(fs::exists(output_ + "/.overwritten"));
    EXPECT_FALSE(fs::exists(output_ + "/.overwritten.moving"));
  }

  const std::string output_ = scratch_.file("output");
  std::string before_;
};

TEST_F(Overwrite, ARunThatComesToNoCheckpointLeavesTheOldOnes) {
  const Outcome outcome =
      run(2, training(output_, {"optimizer.learning_rate=1e30", "train.steps=50"}, "--overwrite"));
  EXPECT_EQ(outcome.exit_code, 5) << outcome.err;
  expect_untouched();
}

TEST_F(Overwrite, TheFirstCheckpointTakesThePlaceOfTheOldOnes) {
  const Outcome outcome = run(kNoLauncher, training(output_, {"run.seed=3", "train.steps=4"}, "--overwrite"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(checkpoints_in(output_), std::vector<int64_t>{4});
  EXPECT_FALSE(fs::exists(output_ + "/.overwritten"));
}

TEST_F(Overwrite, KilledBeforeItsFirstCheckpointTheOldOnesComeBack) {
  // While they move, and when all have: at each rename of the start, and in the first save.
  for (const std::string fault : {"rename#1=kill", "rename#2=kill", "rename#3=kill", "rename#4=kill",
                                  "fsync#1=kill", "rename:/step-000000004.h5=kill"}) {
    SCOPED_TRACE(fault);
    const Outcome killed =
        run_with(fault, {}, training(output_, {"run.seed=3", "train.steps=4"}, "--overwrite"));
    EXPECT_EQ(killed.exit_code, 137) << killed.err;
    // As if it had never been: a start is refused, and --resume goes on with the old run.
    const Outcome refused = run(kNoLauncher, training(output_));
    EXPECT_EQ(refused.exit_code, 2) << refused.err;
    EXPECT_NE(refused.err.find("already holds step-000000012.h5"), std::string::npos) << refused.err;
    expect_untouched();
  }
  const Outcome resumed = run(kNoLauncher, training(output_, {"train.steps=14"}, "--resume"));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(newest_checkpoint(output_), 14);
}

TEST_F(Overwrite, KilledAfterItsFirstCheckpointTheOldOnesGo) {
  // The directory is brought to disk after the rename that commits; of the old files none is gone then.
  const Outcome killed =
      run_with("fsync:/output=kill", {}, training(output_, {"run.seed=3", "train.steps=4"}, "--overwrite"));
  EXPECT_EQ(killed.exit_code, 137) << killed.err;
  EXPECT_TRUE(fs::exists(output_ + "/.overwritten"));
  const Outcome resumed = run(kNoLauncher, training(output_, {"run.seed=3", "train.steps=7"}, "--resume"));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(checkpoints_in(output_), (std::vector<int64_t>{4, 7}));
  EXPECT_FALSE(fs::exists(output_ + "/.overwritten"));
}

}  // namespace
}  // namespace lockstep::testing
