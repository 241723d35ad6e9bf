// lockstep doctor between hosts, which are names here.
#include "faults/faulty_run.h"

namespace lockstep::testing {
namespace {

class DoctorOnHosts : public FaultyRun {};

// A pair measures alone, and those that are in no pair at the time are in the next.
TEST_F(DoctorOnHosts, MeasuresEveryPair) {
  constexpr int kHosts = 4;
  std::vector<std::string> command = {LOCKSTEP_MPIEXEC, "-q"};
  for (int host = 0; host < kHosts; ++host) {
    if (host > 0) command.emplace_back(":");
    const std::vector<std::string> worker =
        with_faults("", {"-np", "1", "env", "LOCKSTEP_HOST=h" + std::to_string(host)},
                    {"doctor", "--output", scratch_.path()});
    command.insert(command.end(), worker.begin(), worker.end());
  }
  const Outcome outcome = Job(command).wait(60.0);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(count(outcome.out, " us there and back, "), size_t{kHosts * (kHosts - 1) / 2}) << outcome.out;
}

}  // namespace
}  // namespace lockstep::testing
