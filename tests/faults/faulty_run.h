// Runs whose system or MPI calls go wrong on order (fault_shim.cpp), over small data in a scratch directory.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "e2e/training_run.h"

namespace lockstep::testing {

// "train.steps=1000000000" in tests that end a run themselves.
inline const std::string kEndless = "train.steps=1000000000";

class FaultyRun : public ::testing::Test {
 protected:
  FaultyRun() {
    write_file(scratch_.file("points.csv"), points_csv(53, 3));
    write_file(scratch_.file("run.toml"),
               configuration("train = \"" + scratch_.file("points.csv") + "\"\n", kMlp, kAdam));
  }

  // `lockstep train`: every step without its digest, unless the settings say otherwise.
  std::vector<std::string> training(const std::string& output, std::vector<std::string> settings = {},
                                    const std::string& option = "") const {
    std::vector<std::string> arguments = {"train", scratch_.file("run.toml"), "--output", output};
    settings.insert(settings.begin(), "parallel.digest_every=0");
    for (const std::string& setting : settings) {
      arguments.emplace_back("--set");
      arguments.push_back(setting);
    }
    if (!option.empty()) arguments.push_back(option);
    return arguments;
  }

  // The command with LOCKSTEP_FAULTS in the environment of each worker; in front of it, `launcher`.
  static std::vector<std::string> with_faults(const std::string& faults, std::vector<std::string> launcher,
                                              const std::vector<std::string>& arguments) {
    launcher.insert(launcher.end(), {"env", "LD_PRELOAD=" LOCKSTEP_FAULT_SHIM, "LOCKSTEP_FAULTS=" + faults,
                                     LOCKSTEP_COMMAND});
    launcher.insert(launcher.end(), arguments.begin(), arguments.end());
    return launcher;
  }
  static std::vector<std::string> workers(int count) {
    return {LOCKSTEP_MPIEXEC, "-np", std::to_string(count), "-q"};
  }
  static std::vector<std::string> script(int count) {
    return {LOCKSTEP_ROOT "/launch/mpirun.sh", "-np", std::to_string(count), "-q"};
  }
  static Outcome run_with(const std::string& faults, const std::vector<std::string>& launcher,
                          const std::vector<std::string>& arguments) {
    return Job(with_faults(faults, launcher, arguments)).wait(60.0);
  }

  static void complete(int count, const std::vector<std::string>& arguments) {
    const Outcome outcome = run(count, arguments);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }

  static size_t count(const std::string& text, const std::string& part) {
    size_t found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  }

  ScratchDirectory scratch_;
};

}  // namespace lockstep::testing
