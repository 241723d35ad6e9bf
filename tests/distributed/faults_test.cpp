// Whatever goes wrong on one worker, all end soon, with a message that says what and the right exit code.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "device.h"
#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

struct Outcome {
  int exit_code = -1;
  std::string output;
  double seconds = 0.0;
};

// Runs fault_worker on `workers` workers with this fault; variables: "NAME=value" in its environment.
Outcome run_fault(int workers, const std::string& fault, const std::string& arrays = "mpi",
                  const std::string& variables = "") {
  const std::string command =
      variables + " timeout --kill-after=5 60 " LOCKSTEP_MPIEXEC " --oversubscribe -np " +
      std::to_string(workers) + " " LOCKSTEP_FAULT_WORKER " '" + fault + "' " + arrays + " 2>&1";
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> chunk;
  for (size_t n; (n = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;)
    outcome.output.append(chunk.data(), n);
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

::testing::AssertionResult says(const Outcome& outcome, const std::string& message) {
  if (outcome.output.find(message) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected \"" << message << "\" in:\n" << outcome.output;
}

::testing::AssertionResult says_once(const Outcome& outcome, const std::string& message) {
  const size_t first = outcome.output.find(message);
  if (first != std::string::npos && first == outcome.output.rfind(message))
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected \"" << message << "\" once in:\n" << outcome.output;
}

// The end of a line that names a worker.
std::string here() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return " on host " + std::string(host.data()) + "\n";
}

// The timeout of the workers is 1.5 s; the rest is for starting and ending processes on a busy machine.
constexpr double kSoon = 30.0;

TEST(Faults, AHealthyJobEndsWithZeroAndSilently) {
  const Outcome outcome = run_fault(3, "none");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.output, "");
}

TEST(Faults, AWorkerThatNeverJoinsTheExchangeIsNamedByRankCollectiveSequenceNumberAndBucket) {
  for (const int workers : {2, 3}) {
    const Outcome outcome = run_fault(workers, "absent from the exchange");
    EXPECT_EQ(outcome.exit_code, 6);
    EXPECT_TRUE(says(outcome, "error: exchange 5 (bucket 0) on rank 0"));
    EXPECT_TRUE(says(outcome,
                     ": not finished after 1.5 s: waiting for rank " + std::to_string(workers - 1) + here()));
    EXPECT_TRUE(says_once(outcome, "error: "));
    EXPECT_LT(outcome.seconds, kSoon);
  }
}

TEST(Faults, AWorkerThatNeverJoinsALibraryCollectiveEndsTheJobInTime) {
  const Outcome barrier = run_fault(3, "absent from a barrier");
  EXPECT_EQ(barrier.exit_code, 6);
  EXPECT_TRUE(says(
      barrier, "error: barrier 5 (step 7) on rank 0: not finished after 1.5 s: waiting for rank 2" + here()));
  EXPECT_TRUE(says_once(barrier, "error: "));
  EXPECT_LT(barrier.seconds, kSoon);
  const Outcome sum = run_fault(3, "absent from an all-reduce");
  EXPECT_EQ(sum.exit_code, 6);
  EXPECT_TRUE(says(
      sum,
      "error: all_reduce 5 (bucket 3) on rank 0: not finished after 1.5 s: waiting for rank 2" + here()));
  EXPECT_TRUE(says_once(sum, "error: "));
  EXPECT_LT(sum.seconds, kSoon);
}

// What has a name in the memory of this host, but for what MPI has there.
std::set<std::string> shared_files() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename();
    if (name.rfind("vader_segment", 0) != 0 && name.rfind("ompi", 0) != 0) names.insert(name);
  }
  return names;
}

TEST(Faults, AKilledWorkerEndsTheJobAndLeavesNothing) {
  const std::set<std::string> before = shared_files();
  for (const char* fault : {"killed", "killed within a step", "killed under way"}) {
    const Outcome outcome = run_fault(3, fault);
    EXPECT_NE(outcome.exit_code, 0) << outcome.output;
    EXPECT_LT(outcome.seconds, kSoon);
  }
  std::set<std::string> left = shared_files();
  for (const std::string& name : before) left.erase(name);
  EXPECT_EQ(left, std::set<std::string>());
}

TEST(Faults, AReplicaThatDriftsByOneBitIsNamedAtTheNextComparison) {
  const testing::ScratchDirectory scratch;
  const std::filesystem::path here = std::filesystem::current_path();
  std::filesystem::current_path(scratch.path());
  std::ofstream points("points.csv");
  points << "a,b,kind\n";
  for (int row = 0; row < 12; ++row) points << row % 5 << ',' << row % 7 << ',' << row % 3 << '\n';
  points.close();
  for (const int rank : {0, 1, 2}) {
    const Outcome outcome = run_fault(3, "drifts on rank " + std::to_string(rank));
    EXPECT_EQ(outcome.exit_code, 5) << outcome.output;
    EXPECT_TRUE(says(outcome, "error: step 6: replicas differ: 2 of 3 workers have "));
    for (const int other : {0, 1, 2}) {
      const bool named =
          outcome.output.find(", rank " + std::to_string(other) + " has ") != std::string::npos;
      EXPECT_EQ(named, other == rank) << outcome.output;
    }
  }
  EXPECT_EQ(run_fault(3, "drifts on rank 7").exit_code, 0) << "nobody";
  std::filesystem::current_path(here);
}

// For faults that only stand-ins have on order.
bool on_stand_ins() {
  return std::getenv("LOCKSTEP_CUDA_ON_CPU") != nullptr;
}

// With NCCL, the host waits for a device that waits for other workers.
class NcclFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_device() != "cuda") GTEST_SKIP() << "needs LOCKSTEP_TEST_DEVICE=cuda";
  }
};

TEST_F(NcclFaults, AHealthyJobEndsWithZeroAndSilently) {
  const Outcome outcome = run_fault(3, "none", "nccl");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.output, "");
}

TEST_F(NcclFaults, TheStartHasALimitOfItsOwn) {
  const Outcome late = run_fault(2, "late for the start", "nccl");
  EXPECT_EQ(late.exit_code, 0) << late.output;
  EXPECT_EQ(late.output, "");
  if (!on_stand_ins()) GTEST_SKIP() << "the rest needs stand-ins";
  // Workers that NCCL connects when they first have something to say to each other.
  const Outcome outcome = run_fault(3, "none", "nccl", "LOCKSTEP_NCCL_ON_CPU=connect=3");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.output, "");
}

TEST_F(NcclFaults, AWorkerThatNeverJoinsTheExchangeIsNamedByTheLowestOfTheOthers) {
  const Outcome outcome = run_fault(3, "absent from the exchange", "nccl");
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
  EXPECT_TRUE(says(outcome,
                   "error: nccl: exchange 4 (bucket 0) on rank 0: not finished after 1.5 s: waiting for "
                   "rank 2" +
                       here()));
  EXPECT_TRUE(says_once(outcome, "error: "));
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST_F(NcclFaults, ADeviceThatIsStuckIsNamedByThoseWhoseDevicesWaitForIt) {
  if (!on_stand_ins()) GTEST_SKIP() << "needs stand-ins";
  for (const int workers : {2, 3}) {
    const Outcome outcome = run_fault(workers, "a device that is stuck", "nccl");
    EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
    EXPECT_TRUE(
        says(outcome,
             " (bucket 0) on rank 0: not finished after 1.5 s: waiting for the device of rank 1" + here()));
    EXPECT_TRUE(says_once(outcome, "error: "));
    EXPECT_LT(outcome.seconds, kSoon);
  }
}

// Through host memory it is that worker's host that does not come: it waits for its device.
TEST_F(NcclFaults, AWorkerWhoseDeviceIsStuckIsNamedWhereArraysGoThroughHostMemoryToo) {
  const Outcome healthy = run_fault(3, "none", "staged");
  EXPECT_EQ(healthy.exit_code, 0) << healthy.output;
  EXPECT_EQ(healthy.output, "");
  if (!on_stand_ins()) GTEST_SKIP() << "the rest needs stand-ins";
  for (const int workers : {2, 3}) {
    const Outcome outcome = run_fault(workers, "a device that is stuck", "staged");
    EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
    EXPECT_TRUE(
        says(outcome, " (bucket 0) on rank 0: not finished after 1.5 s: waiting for rank 1" + here()));
    EXPECT_TRUE(says_once(outcome, "error: "));
    EXPECT_LT(outcome.seconds, kSoon);
  }
}

TEST_F(NcclFaults, AKilledWorkerEndsTheJob) {
  const Outcome outcome = run_fault(3, "killed", "nccl");
  EXPECT_NE(outcome.exit_code, 0) << outcome.output;
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST_F(NcclFaults, AnErrorThatNcclReportsLaterEndsTheJobNamingTheCollective) {
  if (!on_stand_ins()) GTEST_SKIP() << "needs stand-ins";
  const Outcome outcome = run_fault(2, "none", "nccl", "LOCKSTEP_NCCL_ON_CPU=rank=1,operation=3,fault=error");
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
  EXPECT_TRUE(says(outcome, "nccl: exchange 3 (bucket 0) on rank 1: NCCL failed: remote error: injected"));
  EXPECT_LT(outcome.seconds, kSoon);
}

// The host finds out who is missing; it does not wait for the device on its way out, which waits for the same
// worker.
TEST_F(NcclFaults, AWorkerThatHangsIsNamedWhileTheDeviceWaitsForItToo) {
  const Outcome outcome = run_fault(3, "absent from a recorded exchange", "nccl");
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
  EXPECT_TRUE(says(outcome, " (step 7) on rank 0: not finished after 1.5 s: waiting for rank 2" + here()));
  EXPECT_TRUE(says_once(outcome, "error: "));
  EXPECT_LT(outcome.seconds, kSoon);
}

// A peer that is gone may keep NCCL from giving up.
TEST_F(NcclFaults, ALibraryThatDoesNotEndIsNotWaitedForInAJobThatFails) {
  if (!on_stand_ins()) GTEST_SKIP() << "needs stand-ins";
  const Outcome outcome =
      run_fault(2, "absent from a recorded exchange", "nccl", "LOCKSTEP_NCCL_ON_CPU=rank=0,abort=hang");
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
  EXPECT_TRUE(says(outcome, "error: nccl: the communicator of rank 0 has not ended after 10 s\n"));
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST_F(NcclFaults, WhatAWorkerHasToSayDoesNotWaitForTheLibrarysEnd) {
  const std::string stays = "LOCKSTEP_NCCL_ON_CPU=abort=stay,rank=";
  const Outcome absent = run_fault(2, "absent from a recorded exchange", "nccl", stays + "0");
  EXPECT_EQ(absent.exit_code, 6) << absent.output;
  EXPECT_TRUE(says(absent, " (step 7) on rank 0: not finished after 1.5 s: waiting for rank 1" + here()));
  EXPECT_TRUE(says_once(absent, "error: "));
  const Outcome throws = run_fault(2, "throws", "nccl", stays + "1");
  EXPECT_EQ(throws.exit_code, 3) << throws.output;
  EXPECT_TRUE(says(throws, "error: row 7: label 12 is out of range\n"));
  EXPECT_TRUE(says_once(throws, "error: "));
}

TEST_F(NcclFaults, TheTimeInWhichAWorkerIsStoppedDoesNotCountAgainstTheOthers) {
  const Outcome outcome = run_fault(2, "stopped within the exchange", "nccl");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.output, "");
}

// NCCL does not give a communicator up before the recordings of its collectives have gone, and those belong
// to the thread that finds the error.
TEST_F(NcclFaults, AnErrorThatNcclReportsEndsTheJobWhereStepsAreRecordedToo) {
  if (!on_stand_ins()) GTEST_SKIP() << "needs stand-ins";
  const Outcome healthy = run_fault(2, "none, with a recording", "nccl");
  EXPECT_EQ(healthy.exit_code, 0) << healthy.output;
  EXPECT_EQ(healthy.output, "");
  const Outcome outcome =
      run_fault(2, "none, with a recording", "nccl", "LOCKSTEP_NCCL_ON_CPU=rank=1,operation=6,fault=error");
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
  EXPECT_TRUE(says(outcome, "nccl: exchange 6 (bucket 0) on rank 1: NCCL failed: remote error: injected"));
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST_F(NcclFaults, ADeviceThatBreaksIsReportedByWhoUsesIt) {
  if (!on_stand_ins()) GTEST_SKIP() << "needs stand-ins";
  const Outcome outcome = run_fault(2, "a device that breaks", "nccl");
  EXPECT_EQ(outcome.exit_code, 1) << outcome.output;
  EXPECT_TRUE(says(outcome, "error: cuda: "));
  EXPECT_TRUE(says_once(outcome, "error: "));
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST_F(NcclFaults, ADeviceThatHangsIsReportedByRankCollectiveSequenceNumberAndBucket) {
  if (!on_stand_ins()) GTEST_SKIP() << "needs stand-ins";
  const Outcome outcome = run_fault(2, "none", "nccl", "LOCKSTEP_NCCL_ON_CPU=rank=0,operation=2,fault=hang");
  EXPECT_EQ(outcome.exit_code, 6) << outcome.output;
  EXPECT_TRUE(says(outcome,
                   "error: nccl: exchange 2 (bucket 0) on rank 0: not finished after 1.5 s: nobody is "
                   "missing, they wait for each other, rank 1 in nccl: exchange 2 (bucket 0)\n"));
  EXPECT_TRUE(says_once(outcome, "error: "));
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST(Faults, AWorkerThatThrowsEndsTheJobWithItsExitCode) {
  const Outcome outcome = run_fault(3, "throws");
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_TRUE(says(outcome, "error: row 7: label 12 is out of range\n"));
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST(Faults, AWorkerThatLeavesEarlyEndsTheJob) {
  const Outcome outcome = run_fault(3, "leaves without finalizing");
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST(Faults, WorkersThatDisagreeAboutTheOrderOfCollectivesDoNotMixData) {
  const Outcome outcome = run_fault(2, "other order");
  EXPECT_EQ(outcome.exit_code, 6);
  EXPECT_TRUE(says(outcome,
                   "error: exchange 5 (ring) on rank 0: not finished after 1.5 s: nobody is missing, they "
                   "wait for each other, rank 1 in barrier 5 (one collective more)\n"));
  EXPECT_TRUE(says_once(outcome, "error: "));
  EXPECT_LT(outcome.seconds, kSoon);
}

TEST(Faults, WorkersThatDisagreeAboutASizeAreToldSo) {
  const Outcome more = run_fault(2, "sends too much");
  EXPECT_EQ(more.exit_code, 6);
  EXPECT_TRUE(says(more, "error: exchange 5 (ring) on rank 0: MPI failed: MPI_ERR_TRUNCATE"));
  const Outcome less = run_fault(2, "sends too little");
  EXPECT_EQ(less.exit_code, 6);
  EXPECT_TRUE(says(less,
                   "error: exchange 5 (ring) on rank 0: workers disagree about a size: rank 1 sent 200 "
                   "bytes, 400 awaited"));
}

}  // namespace
}  // namespace lockstep
