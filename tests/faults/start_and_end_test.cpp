// MPI's own start and end, which have no timeouts: a worker that hangs there does not keep the others for
// ever.
#include "faults/faulty_run.h"

namespace lockstep::testing {
namespace {

class StartAndEnd : public FaultyRun {};

TEST_F(StartAndEnd, AWorkerThatHangsInAPhaseOfTheStartIsGivenUpByNameOfHostAndPhase) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  for (const std::string phase : {"MPI_Init", "MPI_Comm_dup", "MPI_Comm_split"}) {
    SCOPED_TRACE(phase);
    const Outcome outcome =
        run_with(phase + "@1=hang", workers(2), training(scratch_.file(phase), {"parallel.start_timeout=6"}));
    EXPECT_EQ(outcome.exit_code, 6) << outcome.err;
    EXPECT_NE(outcome.err.find(std::string(" on host ") + host + ": " + phase + ": not finished after 6 s"),
              std::string::npos)
        << outcome.err;
    EXPECT_NE(outcome.err.find("btl_tcp_if_include"), std::string::npos) << outcome.err;
  }
}

// Open MPI ends the process from within MPI_Init: through the launcher, or by itself where it has not reached
// that. (Sanitizers have an _exit of their own.)
TEST_F(StartAndEnd, WhatMpiItselfCannotStartIsSaidInOneLineWithTheCodeOfWhatIsAtFault) {
  struct Case {
    std::vector<std::string> launcher, worker;
    std::string named;
    int exit_code;
    std::string faults = "";
  };
  std::vector<Case> cases = {
      {{"OMPI_MCA_btl=nonsense"}, {}, "OMPI_MCA_btl=nonsense", 2},
      {{"OMPI_MCA_pml=cm"}, {}, "OMPI_MCA_pml=cm", 2},
      {{"OMPI_MCA_btl=tcp,self", "OMPI_MCA_btl_tcp_if_include=nothing0"},
       {},
       "OMPI_MCA_btl_tcp_if_include=nothing0",
       2},
      // Of workers on several hosts: a network that is not there yet may come.
      {{"OMPI_MCA_btl=nonsense"}, {"OMPI_COMM_WORLD_LOCAL_SIZE=1"}, "OMPI_MCA_btl=nonsense", 6},
  };
  // srun's PMIx tells how many hosts there are by other names.
  cases.push_back({{"OMPI_MCA_btl=nonsense"},
                   {"-u", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_NODES=2"},
                   "OMPI_MCA_btl=nonsense",
                   6});
  // Where there is no room for its files, on one host or several, that is at fault.
  cases.push_back({{"OMPI_MCA_btl=nonsense"},
                   {"OMPI_COMM_WORLD_LOCAL_SIZE=1"},
                   "chosen are OMPI_MCA_btl=nonsense: /dev/shm has 0 bytes left: make room there",
                   4,
                   "statvfs:/dev/shm=ENOSPC"});
  // What the launch scripts set is not what somebody has chosen.
  cases.push_back({{"OMPI_MCA_btl=nonsense", "OMPI_MCA_pml=ob1", "OMPI_MCA_lockstep_defaults=pml,btl"},
                   {},
                   "; the launch script has chosen OMPI_MCA_",
                   2});
  cases.push_back({{"OMPI_MCA_btl=nonsense", "OMPI_MCA_pml=ob1", "OMPI_MCA_lockstep_defaults=pml"},
                   {},
                   "; chosen are OMPI_MCA_btl=nonsense: the launch script has chosen OMPI_MCA_pml=ob1: where",
                   2});
  if (kCanLimitMemory) cases.push_back({{}, {"PMIX_MCA_psec=nonsense"}, "", 2});
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.named);
    std::vector<std::string> launcher = {"env"}, workers_with = workers(2);
    launcher.insert(launcher.end(), wrong.launcher.begin(), wrong.launcher.end());
    launcher.insert(launcher.end(), workers_with.begin(), workers_with.end());
    launcher.emplace_back("env");
    launcher.insert(launcher.end(), wrong.worker.begin(), wrong.worker.end());
    const Outcome outcome = run_with(wrong.faults, launcher, training(scratch_.file("run")));
    EXPECT_EQ(outcome.exit_code, wrong.exit_code) << outcome.err;
    EXPECT_EQ(count(outcome.err, "error: "), 1u) << outcome.err;
    char host[256] = {};
    ::gethostname(host, sizeof host - 1);
    EXPECT_NE(outcome.err.find(std::string(" on host ") + host + ": MPI_Init: failed"), std::string::npos)
        << outcome.err;
    EXPECT_NE(outcome.err.find(wrong.named), std::string::npos) << outcome.err;
  }
}

TEST_F(StartAndEnd, AWorkerThatNeverLeavesKeepsNobodyAndTheExitCodeIsThatOfTheRun) {
  const std::string output = scratch_.file("done"), stopped = scratch_.file("stopped");
  const Outcome outcome =
      run_with("MPI_Finalize@1=hang", workers(2), training(output, {"parallel.start_timeout=6"}));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(checkpoints_in(output), std::vector<int64_t>{12});
  EXPECT_NE(outcome.err.find("warning: "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("MPI_Finalize: not finished after 6 s"), std::string::npos) << outcome.err;

  Job job(with_faults("MPI_Finalize@0=hang", workers(2),
                      training(stopped, {"parallel.start_timeout=6", kEndless})));
  ASSERT_TRUE(job.wait_until([&] { return job.err().find("step ") != std::string::npos; })) << job.err();
  job.signal(SIGUSR1);
  const Outcome stop = job.wait(30.0);
  EXPECT_EQ(stop.exit_code, 75) << stop.err;
  EXPECT_EQ(checkpoints_in(stopped).size(), 1u);
}

}  // namespace
}  // namespace lockstep::testing
