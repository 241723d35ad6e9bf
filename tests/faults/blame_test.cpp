// Whoever does not come is named, with its host, by one line of the lowest worker that is there, wherever the
// others wait.
#include <unistd.h>

#include <array>

#include "faults/faulty_run.h"

namespace lockstep::testing {
namespace {

class Blame : public FaultyRun {
 protected:
  static std::string host() {
    std::array<char, 256> name{};
    ::gethostname(name.data(), name.size() - 1);
    return name.data();
  }

  // A run in which the shim's faults stop workers: exit code, and the lines that are ours.
  struct Report {
    int exit_code;
    std::vector<std::string> lines;
    std::string all;
  };
  Report stopped(int count, const std::string& faults) {
    const std::string output = scratch_.file("run" + std::to_string(++runs_));
    const Outcome outcome =
        run_with(faults, workers(count),
                 training(output, {"train.steps=4", "train.micro_batches=4", "train.evaluate_every=2",
                                   "data.validation=" + scratch_.file("points.csv"), "checkpoint.every=2",
                                   "parallel.digest_every=2", "parallel.timeout=2", "checkpoint.timeout=2",
                                   "parallel.set_up_timeout=2", "parallel.start_timeout=6"}));
    Report report{outcome.exit_code, {}, outcome.err};
    std::istringstream lines(outcome.err);
    for (std::string line; std::getline(lines, line);) {
      if (line.find("error: ") != std::string::npos || line.find("warning: ") != std::string::npos)
        report.lines.push_back(line);
    }
    return report;
  }

  void expect_blame(const Report& report, int speaker, const std::string& named, int exit_code = 6) {
    EXPECT_EQ(report.exit_code, exit_code) << report.all;
    ASSERT_EQ(report.lines.size(), 1u) << report.all;
    const std::string& line = report.lines.front();
    // Before MPI has started the log knows of no ranks.
    const std::string rank = "rank " + std::to_string(speaker);
    EXPECT_TRUE(line.find(" on " + rank + ": not finished after ") != std::string::npos ||
                line.find(rank + " on host " + host() + ": MPI_") != std::string::npos)
        << line;
    const std::string end = ": waiting for " + named + " on host " + host();
    EXPECT_NE(line.find(end), std::string::npos) << line;
  }

 private:
  int runs_ = 0;
};

// A worker's messages come from set-up, steps, agreements, evaluations, saves and the end.
TEST_F(Blame, AStoppedWorkerIsNamedWhereverTheOthersWait) {
  expect_blame(stopped(3, "MPI_Isend#4@1=stop"), 0, "rank 1");
  expect_blame(stopped(2, "MPI_Isend#20@0=stop"), 1, "rank 0");
  expect_blame(stopped(4, "MPI_Isend#60@3=stop"), 0, "rank 3");
  expect_blame(stopped(3, "MPI_Isend#40@2=stop"), 0, "rank 2");
  // What each did last is left, that of the stopped one too.
  for (int rank = 0; rank < 3; ++rank) {
    const std::string text = bytes_of(scratch_.file("run4/flight-" + std::to_string(rank) + ".tsv"));
    const std::string start =
        "# rank " + std::to_string(rank) + " on host " + host() + "\nnumber\tcollective\t";
    EXPECT_EQ(text.find(start), 0u) << text;
    EXPECT_NE(text.find("under way"), std::string::npos) << text;
  }
}

// Where MPI can be asked nothing: before its start, and in its end.
TEST_F(Blame, AWorkerThatIsStoppedBeforeMpiStartsIsNamedByItsNeighbours) {
  const Report report = stopped(3, "open:/points.csv#1@0=stop");
  expect_blame(report, 1, "rank 0 (stopped)");
  EXPECT_NE(report.all.find("MPI_Init: not finished after 6 s"), std::string::npos) << report.all;
}

TEST_F(Blame, AWorkerThatDoesNotLeaveIsNamedAndTheExitCodeIsThatOfTheRun) {
  expect_blame(stopped(3, "MPI_Ibarrier@1=stop"), 0, "rank 1", 0);
  expect_blame(stopped(2, "MPI_Finalize@0=stop"), 1, "rank 0 (stopped)", 0);
}

TEST_F(Blame, TwoStoppedWorkersAreBothNamed) {
  expect_blame(stopped(4, "MPI_Isend#5@0=stop MPI_Isend#5@2=stop"), 1,
               "rank 0 on host " + host() + ", rank 2");
}

// As by Ctrl-Z, for longer than a worker may be late.
TEST_F(Blame, AJobThatIsStoppedAsAWholeGoesOn) {
  const std::string output = scratch_.file("paused");
  Job job(Job::on_workers(3, training(output, {kEndless, "parallel.timeout=1.5"})));
  ASSERT_TRUE(job.wait_until([&] { return job.err().find("step ") != std::string::npos; })) << job.err();
  for (const int signal : {SIGSTOP, SIGCONT}) {
    for (int rank = 0; rank < 3; ++rank) job.signal_rank(rank, signal);
    std::this_thread::sleep_for(std::chrono::seconds(3));
  }
  job.signal(SIGUSR1);
  const Outcome outcome = job.wait(30.0);
  EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
  EXPECT_EQ(count(outcome.err, "error: "), 0u) << outcome.err;
}

// At a tenth of the others' speed.
TEST_F(Blame, ASlowWorkerIsWarnedOfOnceAndItsMetricsSaySo) {
  const std::string output = scratch_.file("slow");
  // Large enough that stops meet a worker within its own part of a step, not only where it waits.
  Job job(Job::on_workers(3, training(output, {kEndless, "train.micro_batches=6", "train.log_every=10",
                                               "model.hidden=[1024, 1024]"})));
  ASSERT_TRUE(job.wait_until([&] { return job.err().find("step ") != std::string::npos; })) << job.err();
  const auto warned = [&] { return job.err().find("warning: ") != std::string::npos; };
  for (int i = 0; i < 300 && !warned(); ++i) {
    job.signal_rank(1, SIGSTOP);
    std::this_thread::sleep_for(std::chrono::milliseconds(90));
    job.signal_rank(1, SIGCONT);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  job.signal(SIGUSR1);
  const Outcome outcome = job.wait(30.0);
  EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
  EXPECT_EQ(count(outcome.err, "warning: step "), 1u) << outcome.err;
  EXPECT_NE(outcome.err.find(": rank 1 on host " + host() + " is slow: "), std::string::npos) << outcome.err;
  bool seen = false;
  for (const nlohmann::json& line : metrics_of(output))
    seen = seen || (line["slowest_rank"] == 1 && line["slowest_factor"] > 2.0);
  EXPECT_TRUE(seen) << bytes_of(output + "/metrics.jsonl");
}

}  // namespace
}  // namespace lockstep::testing
