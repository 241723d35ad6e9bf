// Copies of checkpoints on other hosts (checkpoint.replicas): each worker takes itself for a host of its own,
// with a directory of its own.
#include "faults/faulty_run.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

class Replicas : public FaultyRun {
 protected:
  std::string directory(int rank) const { return scratch_.file("h" + std::to_string(rank + 1)); }
  // The command on `hosts`, the first of which has rank 0. faults: of all workers; under: of which folder.
  std::vector<std::string> on_hosts(const std::vector<int>& hosts, const std::vector<std::string>& settings,
                                    const std::string& option = "", const std::string& faults = "",
                                    const std::string& under = "") const {
    std::vector<std::string> command = {LOCKSTEP_MPIEXEC, "-q"};
    for (const int host : hosts) {
      if (command.size() > 2) command.emplace_back(":");
      const std::vector<std::string> worker =
          with_faults(faults,
                      {"-np", "1", "env", "LOCKSTEP_HOST=h" + std::to_string(host + 1),
                       "LOCKSTEP_FAULTS_UNDER=" + under, "LOCKSTEP_CLOCK=" + seconds_ahead_},
                      training(directory(host), settings, option));
      command.insert(command.end(), worker.begin(), worker.end());
    }
    return command;
  }
  Outcome run_on(const std::vector<int>& hosts, const std::vector<std::string>& settings,
                 const std::string& option = "", const std::string& faults = "",
                 const std::string& under = "") {
    return Job(on_hosts(hosts, settings, option, faults, under)).wait(60.0);
  }
  static void expect_done(const Outcome& outcome) { EXPECT_EQ(outcome.exit_code, 0) << outcome.err; }
  static void expect_said(const Outcome& outcome, const std::string& text) {
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err << "\nlacks: " << text;
  }
  // The digest of a run that nothing has happened to.
  std::string undisturbed(const std::string& steps) {
    const std::string output = scratch_.file("undisturbed" + steps);
    complete(kNoLauncher,
             training(output, {"train.steps=" + steps, "model.hidden=[300, 200]"}, "--overwrite"));
    return digest_of(checkpoint_of(output, std::stoll(steps)));
  }
  static std::vector<std::string> settings(const std::string& steps, int64_t replicas = 1) {
    return {"train.steps=" + steps, "checkpoint.every=4", "checkpoint.replicas=" + std::to_string(replicas),
            "model.hidden=[300, 200]"};
  }

  std::string seconds_ahead_ = "0";  // of the clocks of all hosts
};

TEST_F(Replicas, LosingRankZerosHostLosesNothing) {
  Outcome outcome = run_on({0, 1}, settings("12"));
  expect_done(outcome);
  expect_said(outcome, "copies of each checkpoint on h2");
  EXPECT_EQ(bytes_of(checkpoint_of(directory(1), 12)), bytes_of(checkpoint_of(directory(0), 12)));
  EXPECT_EQ(bytes_of(directory(1) + "/metrics.jsonl"), bytes_of(directory(0) + "/metrics.jsonl"));
  fs::remove_all(directory(0));
  // Gone on there, with another host that has nothing yet.
  outcome = run_on({1, 2}, settings("20"), "--resume");
  expect_done(outcome);
  expect_said(outcome, "resumed from " + checkpoint_of(directory(1), 12) + " on host h2 at step 12");
  EXPECT_EQ(losses_of(directory(1)).size(), 20u);
  EXPECT_EQ(digest_of(checkpoint_of(directory(2), 20)), undisturbed("20"));
  // And with rank 0 on a host that has nothing.
  outcome = run_on({3, 2}, settings("24"), "--resume=auto");
  expect_done(outcome);
  expect_said(outcome, "looked for checkpoints on hosts h4 (none), h3 (step 20): taking that of h3");
  EXPECT_EQ(losses_of(directory(3)).size(), 24u);
  EXPECT_EQ(digest_of(checkpoint_of(directory(3), 24)), undisturbed("24"));
  // A host of before that is back goes on with the rest.
  outcome = run_on({1, 3}, settings("28"), "--resume");
  expect_done(outcome);
  expect_said(outcome, "h2 (step 20), h4 (step 24): taking that of h4");
  EXPECT_EQ(digest_of(checkpoint_of(directory(1), 28)), undisturbed("28"));
}

TEST_F(Replicas, KilledAtAnyMomentOfSendingTheCopyBeforeItStays) {
  expect_done(run_on({0, 1}, settings("8")));
  // The host that receives, and the one that sends.
  for (const std::string fault : {"any#15@1=kill", "fsync#1@1=kill", "rename:/step-000000012.h5@1=kill",
                                  "write:/metrics.jsonl@1=kill", "read:/step-000000012.h5#2@0=kill"}) {
    SCOPED_TRACE(fault);
    const int rank = fault.ends_with("@1=kill") ? 1 : 0;
    const Outcome killed = run_on({0, 1}, settings("1000000000"), "--resume", fault, directory(rank));
    EXPECT_NE(killed.exit_code, 0) << killed.err;
    const int64_t newest = newest_checkpoint(directory(1));
    EXPECT_GE(newest, 8);
    // The other one is lost.
    fs::remove_all(directory(0));
    const Outcome resumed = run_on({1, 0}, settings(std::to_string(newest + 4)), "--resume");
    expect_done(resumed);
    EXPECT_EQ(resumed.err.find("skipped"), std::string::npos) << resumed.err;
    EXPECT_EQ(digest_of(checkpoint_of(directory(0), newest + 4)), undisturbed(std::to_string(newest + 4)));
    for (const int each : {0, 1}) fs::remove_all(directory(each));
    expect_done(run_on({0, 1}, settings("8")));
  }
}

TEST_F(Replicas, AFullDiskOfAnotherHostIsAWarning) {
  const Outcome outcome = run_on({0, 1, 2}, settings("12", 2), "", "write@1=ENOSPC", directory(1));
  // (Its lock is the first that it would write.)
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  for (const int rank : {0, 1, 2}) fs::remove_all(directory(rank));
  const Outcome full = run_on({0, 1, 2}, settings("12", 2), "", "write#2@1=ENOSPC", directory(1));
  expect_done(full);
  expect_said(full, "[rank 1] warning: checkpoint.replicas: no copy on host h2: ");
  EXPECT_EQ(FaultyRun::count(full.err, "no copy on host"), 1u) << full.err;
  EXPECT_EQ(bytes_of(checkpoint_of(directory(2), 12)), bytes_of(checkpoint_of(directory(0), 12)));
  EXPECT_EQ(bytes_of(checkpoint_of(directory(1), 12)), bytes_of(checkpoint_of(directory(0), 12)));
}

TEST_F(Replicas, AnotherRunsCheckpointsOnAnyHostAreNotMistakenForItsOwn) {
  complete(kNoLauncher, training(directory(1), {"run.seed=3"}));
  const Outcome refused = run_on({0, 1}, settings("8"));
  EXPECT_EQ(refused.exit_code, 2) << refused.err;
  expect_said(refused, "[rank 1] error: " + directory(1) + ": already holds step-000000012.h5");
  // One checkpoint: of several that wait only the newest is sent.
  expect_done(run_on({0, 1}, settings("4"), "--overwrite"));
  EXPECT_EQ(checkpoints_in(directory(1)), std::vector<int64_t>{4});
  EXPECT_FALSE(fs::exists(directory(1) + "/.overwritten"));
}

TEST_F(Replicas, ARunThatReplacesAnotherIsTheLaterOneWhateverTheClockSays) {
  seconds_ahead_ = "3600";
  expect_done(run_on({0, 1}, settings("8")));
  // The clock has been set right since. Anew while one host is away.
  seconds_ahead_ = "0";
  std::vector<std::string> other = settings("12");
  other.emplace_back("run.seed=3");
  expect_done(run_on({0}, other, "--overwrite"));
  const std::string digest = digest_of(checkpoint_of(directory(0), 12));
  other.front() = "train.steps=16";
  Outcome outcome = run_on({0, 1}, other, "--resume");
  expect_done(outcome);
  expect_said(outcome, "h1 (step 12), h2 (step 8): taking that of h1");
  expect_said(outcome, directory(1) + " on host h2: its checkpoints are of an earlier run, and make place");
  EXPECT_EQ(digest_of(checkpoint_of(directory(0), 12)), digest);
  EXPECT_EQ(digest_of(checkpoint_of(directory(1), 16)), digest_of(checkpoint_of(directory(0), 16)));
  // The same where rank 0's host has lost the run before, and another, which has it, is away afterwards.
  fs::copy(directory(1), scratch_.file("away"));
  fs::remove_all(directory(0));
  other.front() = "train.steps=4";
  expect_done(run_on({0, 1}, other, "--overwrite"));
  fs::remove_all(directory(1));
  fs::rename(scratch_.file("away"), directory(1));
  other.front() = "train.steps=8";
  outcome = run_on({0, 1}, other, "--resume");
  expect_done(outcome);
  expect_said(outcome, "h1 (step 4), h2 (step 16): taking that of h1");
}

// One that all share would be taken for several, and be in use by another run.
TEST_F(Replicas, WhereNothingCanBeWrittenNobodyGuessesWhoseDirectoryItIs) {
  const Outcome outcome =
      run_on({0, 1}, settings("8"), "", "rename@0=ENOSPC", directory(0) + "/.lockstep.seen");
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  expect_said(outcome, "error: " + directory(0) + "/.lockstep.seen");
  expect_said(outcome, "No space left on device");
  EXPECT_EQ(FaultyRun::count(outcome.err, "error: "), 1u) << outcome.err;
}

TEST_F(Replicas, ADamagedNewestIsPassedOverAndReplaced) {
  expect_done(run_on({0, 1}, settings("12")));
  std::string bytes = bytes_of(checkpoint_of(directory(1), 12));
  bytes[3000] = static_cast<char>(bytes[3000] ^ 1);
  overwrite(checkpoint_of(directory(1), 12), bytes);
  fs::remove_all(directory(0));
  const Outcome outcome = run_on({0, 1}, settings("16"), "--resume");
  expect_done(outcome);
  expect_said(outcome, "skipped checkpoint " + checkpoint_of(directory(1), 12) + ": damaged");
  // A run that is this quick sends only the newest of several that wait.
  expect_said(outcome, "): taking that of h2");
  for (const int rank : {0, 1}) EXPECT_EQ(digest_of(checkpoint_of(directory(rank), 16)), undisturbed("16"));
}

}  // namespace
}  // namespace lockstep::testing
