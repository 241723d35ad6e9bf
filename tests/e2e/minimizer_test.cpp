// Minimizers as optimizers of the command: the same bits on any number of workers, through kills within
// steps.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class Minimizers : public ::testing::Test {
 protected:
  // Of 53 points; micro_batches 0: the whole set.
  std::string file(const std::string& optimizer, const std::string& model, int micro_batches = 0,
                   bool regression = false) {
    write_file(scratch_.file("points.csv"), points_csv(53, 3));
    std::string text = configuration("train = \"" + scratch_.file("points.csv") + "\"\n", model, optimizer);
    text = replaced(text, "micro_batches = 5\n",
                    "l2 = 0.01\nmicro_batches = " + std::to_string(micro_batches) + "\n");
    if (regression) text = replaced(text, "[data]\n", "[data]\nclasses = -1\n");
    write_file(scratch_.file("run.toml"), text);
    return scratch_.file("run.toml");
  }
  ScratchDirectory scratch_;
};

const std::string kSmallMlp = "type = \"mlp\"\nhidden = [4]\n";

TEST_F(Minimizers, EveryMethodTakesTheSameStepsOnAnyNumberOfWorkersAndThreads) {
  struct Case {
    std::string name, optimizer, model;
    int micro_batches;
    bool regression = false;
  };
  const std::vector<Case> cases = {
      {"lbfgs_dropout", "type = \"lbfgs\"\nhistory = 3\n", kMlp, 5},
      {"lbfgs_multi_batch", "type = \"lbfgs\"\noverlap = 2\n", kMlp, 5},
      {"lbfgs_rate", "type = \"lbfgs\"\noverlap = 2\nrate = 0.3\n", kMlp, 4},
      {"descent", "type = \"gradient_descent\"\nline_search = {type = \"armijo\"}\n", kSmallMlp, 0},
      {"momentum", "type = \"momentum\"\nline_search = {type = \"more_thuente\"}\n", kSmallMlp, 5},
      {"bfgs", "type = \"bfgs\"\n", kSmallMlp, 0},
      {"newton", "type = \"newton\"\n", kSmallMlp, 0},
      {"newton_cg",
       "type = \"newton_cg\"\nmatrix = \"gauss_newton\"\npreconditioner_products = 2\nline_search = {type = "
       "\"more_thuente\"}\n",
       kMlp, 0},
      {"natural_gradient", "type = \"natural_gradient\"\nrate = 0.5\n", kSmallMlp, 5},
      {"trust_region", "type = \"trust_region\"\n", kMlp, 5},
      {"levenberg_marquardt", "type = \"levenberg_marquardt\"\n", kSmallMlp, 0, true},
      {"levenberg_marquardt_cg", "type = \"levenberg_marquardt\"\nsolver = \"cg\"\n", kSmallMlp, 0, true}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string path = file(c.optimizer, c.model, c.micro_batches, c.regression);
    train(kNoLauncher, {path, "--output", scratch_.file(c.name)});
    const std::vector<std::string> expected = course_of(scratch_.file(c.name));
    EXPECT_EQ(expected.size(), 24u);
    const bool first = c.name == cases[0].name || c.name == "lbfgs_multi_batch";
    for (const int workers : first ? std::vector<int>{2, 3, 4} : std::vector<int>{3}) {
      const std::string output = scratch_.file(c.name + std::to_string(workers));
      train(workers,
            {path, "--output", output, "--set", workers == 3 ? "device.threads=2" : "device.threads=1"});
      EXPECT_EQ(course_of(output), expected) << workers << " workers";
    }
  }
}

// Steps of many evaluations, so that a kill most likely falls within one.
TEST_F(Minimizers, KilledWithinAStepAndResumedOnOtherWorkersTheyEndInTheSameState) {
  Chance chance;
  SCOPED_TRACE(chance.description());
  for (const std::string optimizer :
       {"type = \"lbfgs\"\n", "type = \"lbfgs\"\noverlap = 1\n", "type = \"newton_cg\"\n"}) {
    SCOPED_TRACE(optimizer);
    const std::string path = file(optimizer, kMlp, 5), output = scratch_.file(optimizer);
    std::vector<std::string> arguments = {"train",
                                          path,
                                          "--output",
                                          output,
                                          "--set",
                                          "checkpoint.every=2",
                                          "parallel.digest_every=0",
                                          "train.steps=1000000"};
    for (const int workers : {3, 1}) {
      const int64_t enough = newest_checkpoint(output) + 2 * chance.between(1, 5);
      Job job(Job::on_workers(workers, arguments));
      ASSERT_TRUE(job.wait_until([&] { return newest_checkpoint(output) >= enough; })) << job.wait(0.0).err;
      std::this_thread::sleep_for(std::chrono::microseconds(chance.between(0, 20000)));
      job.kill_all();
      if (arguments.back() != "--resume") arguments.emplace_back("--resume");
    }
    const int64_t steps = newest_checkpoint(output) + 3;
    const std::string limit = "train.steps=" + std::to_string(steps);
    train(2, {path, "--output", output, "--set", limit, "--resume"});
    train(kNoLauncher, {path, "--output", output + "straight", "--set", limit, "parallel.digest_every=0"});
    EXPECT_EQ(digest_of(checkpoint_of(output, steps)), digest_of(checkpoint_of(output + "straight", steps)));
  }
}

TEST_F(Minimizers, LogisticRegressionEndsByItselfWithExitCode0) {
  const std::string path = file("type = \"newton\"\n", "type = \"logistic\"\n");
  const std::vector<std::string> arguments = {
      "train", path, "--output", scratch_.file("out"), "--set", "precision.compute=fp64"};
  const Outcome outcome = run(2, arguments);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("converged: the largest element of the gradient is"), std::string::npos)
      << outcome.err;
  EXPECT_LT(newest_checkpoint(scratch_.file("out")), 12);
  std::vector<std::string> again = arguments;
  again.emplace_back("--resume");
  const Outcome resumed = run(3, again);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("nothing left to do"), std::string::npos) << resumed.err;
}

}  // namespace
}  // namespace lockstep::testing
