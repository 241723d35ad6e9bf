// The newest step's state, written by those that are left when workers are lost (checkpoint.recovery_point).
#include "faults/faulty_run.h"

namespace lockstep::testing {
namespace {

class RecoveryPoints : public FaultyRun {
 protected:
  // Steps that take a while and leave no checkpoint by themselves.
  static std::vector<std::string> settings(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {kEndless, "checkpoint.recovery_point=true", "model.hidden=[300, 200]"});
    return more;
  }
  // The newest step of which there is a line when the run is disturbed.
  static int64_t steps_logged(const std::string& output) {
    const std::vector<nlohmann::json> lines = metrics_of(output);
    return lines.empty() ? 0 : lines.back()["step"].get<int64_t>();
  }
  // The checkpoint in `output` is the run's at its step, and the run goes on from it.
  // lines: whether rank 0 lived to write those of all steps.
  void expect_goes_on(const std::string& output, bool lines, const std::vector<std::string>& more = {}) {
    const int64_t step = newest_checkpoint(output);
    std::vector<std::string> straight = settings(more), longer = straight;
    straight.push_back("train.steps=" + std::to_string(step));
    longer.push_back("train.steps=" + std::to_string(step + 3));
    complete(kNoLauncher, training(scratch_.file("straight"), straight, "--overwrite"));
    EXPECT_EQ(digest_of(checkpoint_of(output, step)),
              digest_of(checkpoint_of(scratch_.file("straight"), step)));
    complete(2, training(output, longer, "--resume"));
    complete(kNoLauncher, training(scratch_.file("straight"), longer, "--resume"));
    EXPECT_EQ(digest_of(checkpoint_of(output, step + 3)),
              digest_of(checkpoint_of(scratch_.file("straight"), step + 3)));
    if (lines) {
      EXPECT_EQ(losses_of(output).size(), static_cast<size_t>(step + 3)) << "every step has its line, once";
    }
  }
};

// The device decides about updates, the host does, with a scaled loss, and averages: each has its own order
// of events. So have those of which workers keep copies: sharded ones, and those that look at the objective
// or at its curvature within a step.
struct RecoveredKind {
  std::string name;
  std::vector<std::string> settings = {};
  std::string optimizer = kAdam;
};
void PrintTo(const RecoveredKind& kind, std::ostream* stream) {
  *stream << kind.name;
}
const std::string kSharded = "parallel.shard_optimizer=true";

class RecoveredKinds : public RecoveryPoints, public ::testing::WithParamInterface<RecoveredKind> {};
INSTANTIATE_TEST_SUITE_P(
    RecoveryPoints, RecoveredKinds,
    ::testing::Values(RecoveredKind{"Adam"}, RecoveredKind{"Clipped", {"clip.value=0.5"}},
                      RecoveredKind{"Lamb", {"optimizer.type=lamb"}},
                      RecoveredKind{"Averaged", {"average.type=ema"}},
                      RecoveredKind{"Nesterov", {"optimizer.type=nesterov"}},
                      RecoveredKind{"Sharded", {kSharded}},
                      RecoveredKind{"ShardedLamb", {kSharded, "optimizer.type=lamb"}},
                      RecoveredKind{"ShardedAveraged", {kSharded, "average.type=ema"}},
                      RecoveredKind{"Kfac", {"optimizer.type=kfac"}},
                      RecoveredKind{"ShardedSophia", {kSharded, "optimizer.type=sophia"}},
                      RecoveredKind{"AdaHessian", {"optimizer.type=adahessian"}},
                      RecoveredKind{"Lbfgs", {}, "type = \"lbfgs\"\n"}),
    [](const auto& kind) { return kind.param.name; });

TEST_P(RecoveredKinds, AKilledWorkerCostsAtMostOneStep) {
  const std::vector<std::string>& more = GetParam().settings;
  write_file(scratch_.file("run.toml"),
             configuration("train = \"" + scratch_.file("points.csv") + "\"\n", kMlp, GetParam().optimizer));
  for (const int rank : {1, 0}) {
    SCOPED_TRACE("rank " + std::to_string(rank));
    const std::string output = scratch_.file("killed" + std::to_string(rank));
    Job job(Job::on_workers(3, training(output, settings(more)), true));
    ASSERT_TRUE(job.wait_until([&] { return steps_logged(output) >= 20; })) << job.err();
    const int64_t logged = steps_logged(output);
    job.signal_rank(rank, SIGKILL);
    const Outcome outcome = job.wait(30.0);
    EXPECT_NE(outcome.exit_code, 0);
    ASSERT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
    EXPECT_GE(newest_checkpoint(output) + 1, logged);
    EXPECT_NE(outcome.err.find("others are lost: the state of step "), std::string::npos) << outcome.err;
    expect_goes_on(output, rank != 0, more);
  }
}

TEST_F(RecoveryPoints, OneThatHangsTooAndTheLineSaysSo) {
  const std::string output = scratch_.file("hung");
  Job job(Job::on_workers(2, training(output, settings({"parallel.timeout=1.5"}))));
  ASSERT_TRUE(job.wait_until([&] { return steps_logged(output) >= 20; })) << job.err();
  const int64_t logged = steps_logged(output);
  job.signal_rank(0, SIGSTOP);
  const Outcome outcome = job.wait(30.0);
  EXPECT_EQ(outcome.exit_code, 6) << outcome.err;
  ASSERT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
  EXPECT_GE(newest_checkpoint(output) + 1, logged);
  expect_goes_on(output, false);
}

// At each message of a step and of the copy behind it, and by the one that is left alone: of sharded arrays
// it has its part, and is about to get the others'.
TEST_F(RecoveryPoints, TwoThatAreLostAtAnyMessageLeaveTheStepOrTheOneBefore) {
  const std::vector<std::string> small = settings({kSharded, "model.hidden=[8]", "parallel.bucket_mb=1"});
  std::vector<std::string> every = small;
  every.insert(every.end(), {"train.steps=40", "checkpoint.every=1", "checkpoint.keep=0"});
  const std::string straight = scratch_.file("straight");
  complete(kNoLauncher, training(straight, every));
  std::set<int64_t> steps;
  for (int message = 60; message < 88; message += 2) {
    SCOPED_TRACE(message);
    const std::string output = scratch_.file(std::to_string(message));
    // One that is killed with the first comes as far as its message, unless the job ends before.
    const std::string number = "MPI_Isend#" + std::to_string(message);
    const Outcome outcome =
        run_with(number + "@1=kill " + number + "@2=kill", workers(3), training(output, small));
    EXPECT_NE(outcome.exit_code, 0);
    ASSERT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
    const int64_t step = newest_checkpoint(output);
    if (step == 0) continue;  // lost in the first one, before which no other run saves
    steps.insert(step);
    EXPECT_EQ(digest_of(checkpoint_of(output, step)), digest_of(checkpoint_of(straight, step)));
  }
  EXPECT_GT(steps.size(), 1u) << "messages of more than one step";
}

// Neither stopped nor dead, the first of its host writes nothing all the same.
TEST_F(RecoveryPoints, OneThatIsAliveButDoesNotAnswerIsNotWaitedFor) {
  const std::string output = scratch_.file("silent");
  const Outcome outcome =
      run_with("MPI_Isend#100@0=hang", workers(3), training(output, settings({"parallel.timeout=1.5"})));
  EXPECT_EQ(outcome.exit_code, 6) << outcome.err;
  ASSERT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
  EXPECT_GT(newest_checkpoint(output), 1);
  expect_goes_on(output, false);
}

TEST_F(RecoveryPoints, ANoticeThatNothingComesOfCostsNothing) {
  const std::string output = scratch_.file("noticed");
  Job job(Job::on_workers(2, training(output, settings())));
  ASSERT_TRUE(job.wait_until([&] { return steps_logged(output) >= 20; })) << job.err();
  job.signal_rank(0, SIGUSR2);
  const int64_t logged = steps_logged(output);
  ASSERT_TRUE(job.wait_until([&] { return steps_logged(output) >= logged + 20; })) << job.err();
  job.signal(SIGUSR1);
  EXPECT_EQ(job.wait(30.0).exit_code, 75);
  expect_goes_on(output, true);
}

// The state is that before the evaluation, which the run that goes on makes first: a schedule and the choice
// of the best miss none, whether trained weights are evaluated or averaged ones.
TEST_F(RecoveryPoints, AWorkerThatIsLostInAnEvaluationCostsNoEvaluation) {
  for (const std::string& kind :
       {std::string(), std::string("average.type=ema"), std::string("parallel.shard_optimizer=true")}) {
    SCOPED_TRACE(kind);
    std::vector<std::string> more = {
        "checkpoint.recovery_point=true", "checkpoint.every=0",     "train.steps=4",
        "data.validation_fraction=0.3",   "train.evaluate_every=4", "checkpoint.keep_best=validation_loss"};
    if (!kind.empty()) more.push_back(kind);
    const std::string straight = scratch_.file("straight" + kind), output = scratch_.file("lost" + kind);
    complete(2, training(straight, more));
    const auto evaluated = [&] { return count(bytes_of(output + "/metrics.jsonl"), "validation_loss"); };
    // Which of a run's last messages is the evaluation's is found by trying.
    int64_t lost = 0;
    for (int low = 0, high = 100; lost != 4 && high - low > 1;) {
      const int message = (low + high) / 2;
      std::filesystem::remove_all(output);
      const Outcome outcome =
          run_with("MPI_Isend#" + std::to_string(message) + "@1=kill", workers(2), training(output, more));
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      const bool late = outcome.exit_code == 0 || evaluated() > 0;
      (late ? high : low) = message;
      if (!late && !checkpoints_in(output).empty()) lost = newest_checkpoint(output);
    }
    ASSERT_EQ(lost, 4) << "no message of the evaluation was found";
    complete(2, training(output, more, "--resume"));
    EXPECT_EQ(evaluated(), 1u);
    EXPECT_EQ(digest_of(checkpoint_of(output, 4)), digest_of(checkpoint_of(straight, 4)));
  }
}

// Each worker takes itself for a host of its own, with a directory of its own.
TEST_F(RecoveryPoints, OnOtherHostsLieInTheirDirectories) {
  for (const char* sharded : {"false", "true"}) {
    SCOPED_TRACE(sharded);
    const std::string shards = std::string("parallel.shard_optimizer=") + sharded;
    std::vector<std::string> command = {LOCKSTEP_MPIEXEC, "-q"};
    const auto directory = [&](int host) { return scratch_.file(sharded + std::to_string(host)); };
    for (const int host : {1, 2}) {
      if (host > 1) command.emplace_back(":");
      const std::vector<std::string> worker = with_faults(
          "", {"-np", "1", "env", "LOCKSTEP_HOST=h" + std::to_string(host)},
          training(directory(host), settings({"checkpoint.replicas=1", "checkpoint.every=10", shards})));
      command.insert(command.end(), worker.begin(), worker.end());
    }
    Job job(command);
    ASSERT_TRUE(job.wait_until([&] { return steps_logged(directory(1)) >= 25; })) << job.err();
    const int64_t logged = steps_logged(directory(1));
    job.signal_rank(0, SIGKILL);
    const Outcome outcome = job.wait(30.0);
    EXPECT_GE(newest_checkpoint(directory(2)) + 1, logged) << outcome.err;
    std::filesystem::remove_all(directory(1));
    const std::string until = "train.steps=" + std::to_string(newest_checkpoint(directory(2)) + 3);
    complete(kNoLauncher, training(directory(2), settings({until}), "--resume"));
    complete(kNoLauncher, training(scratch_.file("straight"), settings({until}), "--overwrite"));
    EXPECT_EQ(digest_of(checkpoint_of(directory(2), newest_checkpoint(directory(2)))),
              digest_of(checkpoint_of(scratch_.file("straight"), newest_checkpoint(directory(2)))));
  }
}

}  // namespace
}  // namespace lockstep::testing
