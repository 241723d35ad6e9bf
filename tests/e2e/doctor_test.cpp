// lockstep doctor under mpirun.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

TEST(DoctorUnderMpirun, MeasuresTheWayBetweenWorkersAndAgreesOnTheExitCode) {
  const ScratchDirectory scratch;
  const Outcome well = run(2, {"doctor", "--output", scratch.path()});
  EXPECT_EQ(well.exit_code, 0) << well.err;
  EXPECT_NE(well.out.find(" us there and back, "), std::string::npos) << well.out;
  EXPECT_EQ(well.out.find("ready to train\n"), well.out.size() - 15) << "said once: " << well.out;
  write_file(scratch.file("file"), "");
  const Outcome ill = run(2, {"doctor", "--output", scratch.file("file/run")});
  EXPECT_EQ(ill.exit_code, 2) << ill.err;
  EXPECT_NE(ill.out.find("PROBLEM: "), std::string::npos) << ill.out;
}

// As a run is started there: what mpirun is told is what launch/mpirun.sh tells it.
TEST(DoctorOnHosts, PassesOverInterfacesThatLeadNowhere) {
  namespace fs = std::filesystem;
  const ScratchDirectory scratch;
  fs::create_directories(scratch.file("bin"));
  fs::create_directories(scratch.file("net/docker0"));
  fs::create_directories(scratch.file("net/eth0"));
  // By this name among its arguments mpirun shows what it is told.
  fs::create_directories(scratch.file("defaults"));
  fs::copy_file(LOCKSTEP_ROOT "/tests/launch/mpirun_standin", scratch.file("bin/mpirun"));
  write_file(scratch.file("hosts"), "# two\na slots=2\nb\n");
  const Outcome outcome =
      Job({"env", "PATH=" + scratch.file("bin") + ":" + std::getenv("PATH"),
           "LOCKSTEP_NET=" + scratch.file("net"), "HOME=" + scratch.path(), LOCKSTEP_COMMAND, "doctor",
           "--hostfile", scratch.file("hosts"), "--output", scratch.file("defaults")})
          .wait();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* told :
       {"OMPI_MCA_btl_tcp_if_exclude=127.0.0.1/8,sppp,docker0\n", "OMPI_MCA_oob_tcp_if_exclude=docker0\n"})
    EXPECT_NE(outcome.out.find(told), std::string::npos) << outcome.out;
}

// Several workers that a launcher has started for a command of one worker: each may have been asked for
// something else, by a script between them.
TEST(CommandsOfOneWorker, AreDoneByEach) {
  const ScratchDirectory scratch;
  write_file(scratch.file("points.csv"), points_csv(30, 3));
  write_file(scratch.file("hosts"), "a\n");
  const auto times = [](const std::string& text, const std::string& part) {
    size_t found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  };
  const std::string prepared = scratch.file("points.h5");
  EXPECT_EQ(run(kNoLauncher, {"prepare", scratch.file("points.csv"), prepared}).exit_code, 0);
  const Outcome inspect = run(2, {"inspect", prepared, "--verify"});
  EXPECT_EQ(inspect.exit_code, 0) << inspect.err;
  EXPECT_EQ(times(inspect.out, ": intact"), 2u) << inspect.out;
  const Outcome doctor = run(2, {"doctor", "--hostfile", scratch.file("hosts")});
  EXPECT_EQ(doctor.exit_code, 2) << doctor.err;
  EXPECT_EQ(times(doctor.err, "error: --hostfile: doctor starts mpirun itself"), 1u) << doctor.err;
}

}  // namespace
}  // namespace lockstep::testing
