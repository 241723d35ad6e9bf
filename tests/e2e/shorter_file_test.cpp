// A data file that becomes shorter under a run: one line and exit code 3, whoever finds it.
#include <gtest/gtest.h>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

TEST(ShorterFile, EndsTheRunWithItsName) {
  const ScratchDirectory scratch;
  write_file(scratch.file("points.csv"), points_csv(4000, 3));
  ASSERT_EQ(run(kNoLauncher, {"prepare", scratch.file("points.csv"), scratch.file("points.h5")}).exit_code,
            0);
  const std::string whole = bytes_of(scratch.file("points.h5"));
  for (const int workers : {kNoLauncher, 2}) {
    write_file(scratch.file("points.h5"), whole);
    const std::string output = scratch.file("out" + std::to_string(workers));
    write_file(scratch.file("run.toml"),
               replaced(configuration("train = \"" + scratch.file("points.h5") + "\"\n",
                                      "type = \"mlp\"\nhidden = [8]\n", kAdam),
                        "steps = 12", "steps = 100000000"));
    Job job(Job::on_workers(workers, {"train", scratch.file("run.toml"), "--output", output}));
    ASSERT_TRUE(job.wait_until([&] { return losses_of(output).size() > 20; })) << job.wait().err;
    std::filesystem::resize_file(scratch.file("points.h5"), whole.size() / 2);
    const Outcome outcome = job.wait();
    EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
    EXPECT_NE(outcome.err.find("points.h5: has become shorter while it is in use"), std::string::npos)
        << outcome.err;
  }
}

}  // namespace
}  // namespace lockstep::testing
