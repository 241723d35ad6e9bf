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

}  // namespace
}  // namespace lockstep::testing
