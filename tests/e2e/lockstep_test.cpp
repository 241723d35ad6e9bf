// The Lockstep guarantee: the same bits on any number of workers, with any number of threads, through any
// interruptions.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

struct Case {
  std::string name;
  std::string data;  // empty: points of `classes` classes
  int classes;
  std::string model;
};

const std::vector<Case> kCases = {
    {"BinaryLogisticRegression", "", 2, "type = \"logistic\"\n"},
    {"LogisticRegression", digits(), 10, "type = \"logistic\"\n"},
    {"MlpWithDropout", "", 3, kMlp},
    {"CnnWithBatchNormAndDropout", digits(), 10, kCnn},
    {"LstmUnderGruInBothDirections", digits(), 10,
     "type = \"sequential\"\nlayers = [{type = \"recurrent\", units = 24, return = \"sequence\"}, {type = "
     "\"dropout\", probability = 0.25}, {type = \"recurrent\", cell = \"gru\", units = 16, direction = "
     "\"both\"}, "
     "{type = \"linear\", units = 10}]\n"},
    {"CausalTransformerWithDropout", digits(), 10,
     "type = \"sequential\"\nlayers = [{type = \"reshape\", shape = [8, 8]}, {type = \"linear\", units = "
     "12}, "
     "{type = \"positions\"}, {type = \"transformer_block\", heads = 3, causal = true, dropout = 0.2}, "
     "{type = \"transformer_block\", heads = 2, activation = \"gelu_tanh\"}, {type = \"layer_norm\"}, {type "
     "= \"mean_positions\"}, "
     "{type = \"linear\", units = 10}]\n"},
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class Lockstep : public ::testing::TestWithParam<Case> {
 protected:
  // The configuration of the case, as a file.
  std::string configuration_file() {
    const Case& c = GetParam();
    std::string data = c.data;
    if (data.empty()) {
      write_file(scratch_.file("points.csv"), points_csv(53, c.classes));
      data = "train = \"" + scratch_.file("points.csv") + "\"\nvalidation_fraction = 0.2\n";
    }
    write_file(scratch_.file("run.toml"), configuration(data, c.model, kAdam));
    return scratch_.file("run.toml");
  }

  ScratchDirectory scratch_;
};

TEST_P(Lockstep, EveryStepIsTheSameBitsOnAnyNumberOfWorkersAndThreads) {
  const std::string file = configuration_file();
  train(kNoLauncher, {file, "--output", scratch_.file("alone")});
  const std::vector<std::string> expected = course_of(scratch_.file("alone"));
  ASSERT_EQ(expected.size(), 12u + 12u + 1u);  // losses, digests, validation
  for (const auto& [workers, threads] :
       all_or_first<std::pair<int, int>>(2, {{3, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 2}})) {
    const std::string output = scratch_.file(std::to_string(workers) + "x" + std::to_string(threads));
    train(workers, {file, "--output", output, "--set", "device.threads=" + std::to_string(threads)});
    EXPECT_EQ(course_of(output), expected) << workers << " workers, " << threads << " threads";
    EXPECT_EQ(run(kNoLauncher, {"diff", checkpoint_of(scratch_.file("alone"), 12), checkpoint_of(output, 12)})
                  .exit_code,
              0);
  }
}

TEST_P(Lockstep, RecomputingActivationsChangesNoBit) {
  const std::string file = configuration_file();
  train(kNoLauncher, {file, "--output", scratch_.file("kept")});
  const std::vector<std::string> expected = course_of(scratch_.file("kept"));
  for (const auto& [workers, every] :
       all_or_first<std::pair<int, int>>(1, {{2, 2}, {kNoLauncher, 1}, {kNoLauncher, 3}})) {
    const std::string output = scratch_.file("recomputed" + std::to_string(every));
    train(workers, {file, "--output", output, "--set", "train.recompute_every=" + std::to_string(every)});
    EXPECT_EQ(course_of(output), expected) << "every " << every;
  }
}

// Cycles of training on changing numbers of workers, each killed at once and without warning a random while
// after its first checkpoint; then an uninterrupted run of as many steps on one.
TEST_P(Lockstep, KilledAtAnyTimeAndResumedOnOtherWorkersItEndsInTheSameState) {
  Chance chance;
  SCOPED_TRACE(chance.description());
  const std::string file = configuration_file(), output = scratch_.file("interrupted");
  std::vector<std::string> arguments = {"train",    file,
                                        "--output", output,
                                        "--set",    "checkpoint.every=3",
                                        "--set",    "parallel.digest_every=0",
                                        "--set",    "train.steps=1000000000"};
  for (const int workers : {3, 1, 4}) {
    const int64_t enough = newest_checkpoint(output) + 3 * chance.between(1, 8);
    Job job(Job::on_workers(workers, arguments));
    ASSERT_TRUE(job.wait_until([&] { return newest_checkpoint(output) >= enough; })) << job.wait(0.0).err;
    std::this_thread::sleep_for(std::chrono::microseconds(chance.between(0, 20000)));
    job.kill_all();
    metrics_of(output);
    if (arguments.back() != "--resume") arguments.emplace_back("--resume");
  }
  const int64_t steps = newest_checkpoint(output) + chance.between(1, 5);
  const std::string limit = "train.steps=" + std::to_string(steps);
  train(2, {file, "--output", output, "--set", limit, "--resume"});
  train(kNoLauncher, {file, "--output", scratch_.file("straight"), "--set", limit});
  const Outcome difference = run(
      kNoLauncher, {"diff", checkpoint_of(output, steps), checkpoint_of(scratch_.file("straight"), steps)});
  EXPECT_EQ(difference.exit_code, 0) << difference.out << difference.err;
  EXPECT_EQ(losses_of(output), losses_of(scratch_.file("straight"))) << "the history has one line a step";
}

INSTANTIATE_TEST_SUITE_P(Models, Lockstep, ::testing::ValuesIn(kCases),
                         [](const auto& instance) { return instance.param.name; });

class Points : public ::testing::Test {
 protected:
  Points() { write_file(scratch_.file("points.csv"), points_csv(53, 3)); }
  std::string file(const std::string& optimizer, const std::string& model = kMlp) {
    const std::string path = scratch_.file("run.toml");
    write_file(path, configuration("train = \"" + scratch_.file("points.csv") + "\"\n", model, optimizer));
    return path;
  }
  ScratchDirectory scratch_;
};

TEST_F(Points, EveryOptimizerWithClippingDecayAndScheduleIsTheSameOnOneAndThreeWorkers) {
  for (const std::string type : {"gradient_descent", "sgd", "momentum", "nesterov", "adam", "adamw"}) {
    SCOPED_TRACE(type);
    std::string path = file("type = \"" + type + "\"\nlearning_rate = 0.05\n");
    std::string text =
        bytes_of(path) + "[clip]\nglobal_norm = 0.3\n[schedule]\ntype = \"cosine\"\nwarmup = 4\n";
    text = replaced(text, "steps = 12\n", "steps = 12\nl2 = 0.01\n");
    // The whole training set is one batch.
    if (type == "gradient_descent") text = replaced(text, "micro_batches = 5\n", "");
    write_file(path, text);
    train(kNoLauncher, {path, "--output", scratch_.file(type + "1")});
    train(3, {path, "--output", scratch_.file(type + "3")});
    const std::vector<std::string> expected = course_of(scratch_.file(type + "1"));
    EXPECT_EQ(expected.size(), 24u);
    EXPECT_EQ(course_of(scratch_.file(type + "3")), expected);
  }
}

TEST_F(Points, DoublePrecisionIsTheSameOnOneAndFourWorkers) {
  const std::string path = file(kAdam);
  train(kNoLauncher, {path, "--output", scratch_.file("1"), "--set", "precision.compute=fp64"});
  train(4, {path, "--output", scratch_.file("4"), "--set", "precision.compute=fp64"});
  EXPECT_EQ(course_of(scratch_.file("4")), course_of(scratch_.file("1")));
}

TEST_F(Points, LibraryReductionAgreesWithinRounding) {
  const std::string path = file(kAdam);
  train(3, {path, "--output", scratch_.file("lockstep")});
  train(3, {path, "--output", scratch_.file("library"), "--set", "parallel.reduction=library"});
  const std::vector<double> expected = losses_of(scratch_.file("lockstep")),
                            losses = losses_of(scratch_.file("library"));
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t i = 0; i < losses.size(); ++i)
    EXPECT_NEAR(losses[i], expected[i], 1e-5 * std::abs(expected[i])) << i;
}

TEST_F(Points, AnotherSeedIsAnotherRunAndDiffNamesTheTensors) {
  const std::string path = file(kAdam);
  train(kNoLauncher, {path, "--output", scratch_.file("a")});
  train(kNoLauncher, {path, "--output", scratch_.file("b"), "--set", "run.seed=12"});
  const Outcome difference = run(
      kNoLauncher, {"diff", checkpoint_of(scratch_.file("a"), 12), checkpoint_of(scratch_.file("b"), 12)});
  EXPECT_EQ(difference.exit_code, 1);
  EXPECT_NE(difference.out.find("/parameters/hidden.0.weight: max |a-b| "), std::string::npos)
      << difference.out;
}

TEST_F(Points, EvaluationIsTheSameLineOnAnyNumberOfWorkers) {
  const std::string path = file(kAdam);
  train(kNoLauncher, {path, "--output", scratch_.file("a")});
  const std::vector<std::string> arguments = {"eval", path, "--checkpoint",
                                              checkpoint_of(scratch_.file("a"), 12)};
  const Outcome alone = run(kNoLauncher, arguments);
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  const nlohmann::json line = nlohmann::json::parse(alone.out, nullptr, false);
  ASSERT_TRUE(line.is_object()) << alone.out;
  EXPECT_EQ(line["samples"], 53);
  EXPECT_GT(line["accuracy"], 0.4);
  EXPECT_LT(line["loss"], 1.2);
  for (const int workers : {2, 3}) EXPECT_EQ(run(workers, arguments).out, alone.out) << workers << " workers";
}

// ---- stopping on a signal

struct Stop {
  std::string name;
  std::vector<std::string> command;  // in front of train
  std::function<void(Job&)> send;
  std::string signal;  // as rank 0's log names it; empty when another worker was told
};

class StopSignals : public Points {};

TEST_F(StopSignals, AllWorkersSaveOnceLeaveTogetherWith75AndTheRunGoesOnAsIfNothingHadHappened) {
  const std::vector<std::string> two = Job::on_workers(2, {}), three = Job::on_workers(3, {});
  const std::vector<std::string> script = {LOCKSTEP_ROOT "/launch/mpirun.sh", "-q", "-np", "2",
                                           LOCKSTEP_COMMAND};
  const std::vector<Stop> stops = {
      {"SIGTERM", {LOCKSTEP_COMMAND}, [](Job& job) { job.signal(SIGTERM); }, "SIGTERM"},
      {"SIGINT", {LOCKSTEP_COMMAND}, [](Job& job) { job.signal(SIGINT); }, "SIGINT"},
      {"SIGUSR1 through mpirun", two, [](Job& job) { job.signal(SIGUSR1); }, "SIGUSR1"},
      {"SIGTERM to one worker", three, [](Job& job) { job.signal_rank(2, SIGTERM); }, ""},
      {"SIGUSR1 to every worker", three,
       [](Job& job) {
         for (int rank = 0; rank < 3; ++rank) job.signal_rank(rank, SIGUSR1);
       },
       "SIGUSR1"},
      {"SIGTERM to the launch script", script, [](Job& job) { job.signal(SIGTERM); }, "SIGUSR1"},
  };
  const std::string path = file(kAdam);
  for (const Stop& stop : stops) {
    SCOPED_TRACE(stop.name);
    const std::string output = scratch_.file(stop.name);
    std::vector<std::string> command = stop.command;
    for (const char* argument : {"train", path.c_str(), "--output", output.c_str(), "--set",
                                 "train.steps=1000000000", "--set", "parallel.digest_every=0"}) {
      command.emplace_back(argument);
    }
    Job job(command);
    ASSERT_TRUE(job.wait_until([&] { return job.err().find("step ") != std::string::npos; })) << job.err();
    stop.send(job);
    const Outcome outcome = job.wait(30.0);
    EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
    const std::vector<int64_t> checkpoints = checkpoints_in(output);
    ASSERT_EQ(checkpoints.size(), 1u) << outcome.err;
    const std::string by = stop.signal.empty() ? "stopped" : "stopped by " + stop.signal;
    EXPECT_NE(outcome.err.find(by + " at step " + std::to_string(checkpoints[0])), std::string::npos)
        << outcome.err;
    EXPECT_EQ(static_cast<int64_t>(losses_of(output).size()), checkpoints[0]);

    const std::string limit = "train.steps=" + std::to_string(checkpoints[0] + 5);
    train(4, {path, "--output", output, "--set", limit, "--resume"});
    train(kNoLauncher,
          {path, "--output", output + " straight", "--set", limit, "--set", "parallel.digest_every=0"});
    EXPECT_EQ(digest_of(checkpoint_of(output, checkpoints[0] + 5)),
              digest_of(checkpoint_of(output + " straight", checkpoints[0] + 5)));
  }
}

TEST_F(StopSignals, OneThatComesDuringSetUpIsNotLost) {
  const std::string path = file(kAdam), output = scratch_.file("early");
  Job job(Job::on_workers(2, {"train", path, "--output", output, "--set", "train.steps=1000000000"}));
  // The directory is made before the first step.
  ASSERT_TRUE(job.wait_until([&] { return std::filesystem::exists(output); })) << job.err();
  job.signal(SIGUSR1);
  const Outcome outcome = job.wait(30.0);
  EXPECT_EQ(outcome.exit_code, 75) << outcome.err;
  EXPECT_EQ(checkpoints_in(output).size(), 1u) << outcome.err;
}

// A control group of the test's own, whose processes are ended by the system where they use more memory than
// it has; of version 1 or 2.
class MemoryGroup {
 public:
  MemoryGroup() {
    for (const auto& [root, limit] : {std::pair("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                                      std::pair("/sys/fs/cgroup", "memory.max")}) {
      const std::string path = std::string(root) + "/lockstep-test-" + std::to_string(::getpid());
      std::error_code error;
      if (!std::filesystem::create_directory(path, error)) continue;
      path_ = path;
      limit_ = path + "/" + limit;
      if (std::filesystem::exists(limit_, error)) return;
      std::filesystem::remove(path_, error);
      path_.clear();
    }
  }
  ~MemoryGroup() {
    if (!path_.empty()) ::rmdir(path_.c_str());
  }
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;

  bool limit(int mebibytes) const {
    return !path_.empty() && (std::ofstream(limit_) << (int64_t{mebibytes} << 20) << std::flush).good();
  }
  std::vector<std::string> within(const std::vector<std::string>& command) const {
    std::vector<std::string> limited = {"sh", "-c", R"(echo $$ >"$0"/cgroup.procs && exec "$@")", path_};
    limited.insert(limited.end(), command.begin(), command.end());
    return limited;
  }

 private:
  std::string path_, limit_;
};

TEST(Memory, OfAControlGroupIsLookedAtBeforeTheSystemEndsTheProcess) {
  if (!kCanLimitMemory || test_device() != "cpu" || !MemoryGroup().limit(1000))
    GTEST_SKIP() << "control groups cannot be made here";
  const ScratchDirectory scratch;
  const std::string file = scratch.file("run.toml"), free = scratch.file("free"),
                    tight = scratch.file("tight");
  // Parameters, gradients and two moments of 36 MiB each, a copy of all but the gradients, and what the
  // program takes: limits are far from all of them.
  write_file(file, configuration(digits(), "type = \"mlp\"\nhidden = [3000, 3000]\n", kAdam));
  const std::vector<std::string> training = {"train",           file, "--set", "checkpoint.every=2", "--set",
                                             "device.threads=1"};
  const auto run_within = [&](int mebibytes, std::vector<std::string> more) {
    const MemoryGroup group;
    EXPECT_TRUE(group.limit(mebibytes));
    more.insert(more.begin(), training.begin(), training.end());
    return Job(group.within(Job::on_workers(kNoLauncher, more))).wait();
  };
  train(kNoLauncher, {file, "--output", free, "--set", "train.steps=4"});
  const Outcome refused = run_within(100, {"--output", tight});
  EXPECT_EQ(refused.exit_code, 2) << refused.err;
  EXPECT_NE(refused.err.find("error: memory: "), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("no room for"), std::string::npos) << refused.err;
  const Outcome first = run_within(250, {"--output", tight, "--set", "train.steps=3"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_NE(first.err.find(tight + ": a copy of the state takes "), std::string::npos) << first.err;
  // What is resumed is read beside what it will be.
  const Outcome second = run_within(450, {"--output", tight, "--set", "train.steps=4", "--resume"});
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(digest_of(checkpoint_of(tight, 4)), digest_of(checkpoint_of(free, 4)));
  const Outcome factors = run_within(
      400, {"--output", scratch.file("kfac"), "--set", "optimizer.type=kfac", "model.hidden=[2000, 2000]"});
  EXPECT_EQ(factors.exit_code, 2) << factors.err;
  EXPECT_NE(factors.err.find("in fp64 on the host: takes "), std::string::npos) << factors.err;
}

// The memory of a job is given for training; what saves must not ask for as much as the state again.
TEST(Memory, CheckpointsThatFindNoneForACopyAreWrittenFromWhereTheStateIs) {
  if (!kCanLimitMemory || test_device() != "cpu") GTEST_SKIP();
  const ScratchDirectory scratch;
  const std::string file = scratch.file("run.toml"), free = scratch.file("free"),
                    tight = scratch.file("tight");
  write_file(file, replaced(configuration(digits(), "type = \"mlp\"\nhidden = [2000, 2000]\n", kAdam),
                            "steps = 12\n", "steps = 4\n"));
  const auto training = [&](const std::string& output, int steps) {
    return std::vector<std::string>{"train",    file,
                                    "--output", output,
                                    "--set",    "train.steps=" + std::to_string(steps),
                                    "--set",    "checkpoint.every=2",
                                    "--set",    "device.threads=1"};
  };
  train(kNoLauncher, {file, "--output", free});
  for (const int steps : {3, 4}) {
    std::vector<std::string> arguments = training(tight, steps);
    if (steps == 4) arguments.emplace_back("--resume");
    Job job(Job::within_mebibytes(260, Job::on_workers(kNoLauncher, arguments)));
    const Outcome outcome = job.wait();
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const size_t said = outcome.err.find(tight + ": a copy of the state takes ");
    EXPECT_NE(said, std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("a copy of the state", said + tight.size() + 10), std::string::npos)
        << outcome.err;
  }
  EXPECT_EQ(digest_of(checkpoint_of(tight, 4)), digest_of(checkpoint_of(free, 4)));
}

}  // namespace
}  // namespace lockstep::testing
