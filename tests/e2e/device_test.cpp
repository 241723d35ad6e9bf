// What runs compute on: how it is chosen, and that neither it nor the way of arrays between GPUs is felt.
#include <algorithm>
#include <cmath>
#include <regex>
#include <set>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class Device : public ::testing::Test {
 protected:
  Device() {
    write_file(scratch_.file("points.csv"), points_csv(53, 3));
    write_file(scratch_.file("run.toml"), text(kMlp));
  }
  std::string text(const std::string& model) const {
    return configuration("train = \"" + scratch_.file("points.csv") + "\"\n", model, kAdam);
  }
  std::vector<std::string> training(const std::string& output,
                                    const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {scratch_.file("run.toml"), "--output", scratch_.file(output)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<std::string> course(const std::string& output) const {
    return course_of(scratch_.file(output));
  }

  ScratchDirectory scratch_;
};

TEST_F(Device, AskingForAGpuThatIsNotThereIsALineAndExitCodeTwo) {
  if (on_gpu()) GTEST_SKIP() << "there is one";
  ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
  for (const std::vector<std::string>& asking :
       {std::vector<std::string>{"--device", "cuda"}, {"--set", "device.type=cuda"}}) {
    std::vector<std::string> arguments = training("out", asking);
    arguments.insert(arguments.begin(), "train");
    for (const int workers : {kNoLauncher, 2}) {
      const Outcome outcome = run(workers, arguments);
      EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
      EXPECT_TRUE(std::regex_match(
          outcome.err, std::regex("(\\[rank \\d+\\] )?error: cuda: .*(CUDA|GPU|NVIDIA driver).*\n")))
          << outcome.err;
    }
  }
  train(kNoLauncher, training("auto", {"--device", "auto"}));
  train(kNoLauncher, training("cpu", {"--device", "cpu"}));
  EXPECT_EQ(course("auto"), course("cpu"));
  ::unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST_F(Device, TheOptionOverridesTheSetting) {
  train(kNoLauncher, training("out", {"--set", "device.type=cuda", "--device", "cpu"}));
  EXPECT_NE(bytes_of(scratch_.file("out/configuration.toml")).find("type = \"cpu\""), std::string::npos);
}

// Adds an entry to what the stand-ins for the CUDA libraries are told, for as long as it lives; on a GPU
// nothing.
class StandIns {
 public:
  explicit StandIns(const std::string& entry) {
    const char* before = std::getenv("LOCKSTEP_CUDA_ON_CPU");
    there_ = before != nullptr;
    if (there_) before_ = before;
    if (there_)
      ::setenv("LOCKSTEP_CUDA_ON_CPU", (before_.empty() ? entry : before_ + "," + entry).c_str(), 1);
  }
  ~StandIns() {
    if (there_) ::setenv("LOCKSTEP_CUDA_ON_CPU", before_.c_str(), 1);
  }
  StandIns(const StandIns&) = delete;
  StandIns& operator=(const StandIns&) = delete;
  bool there() const { return there_; }

 private:
  bool there_ = false;
  std::string before_;
};

class Gpu : public Device {
 protected:
  void SetUp() override {
    if (!on_gpu()) GTEST_SKIP() << "needs LOCKSTEP_TEST_DEVICE=cuda";
  }
};

TEST_F(Gpu, IsTakenWhereThereIsOneAndTheLogSaysSo) {
  const std::vector<std::string> arguments = training("out", {"--device", "auto"});
  std::vector<std::string> all = {"train"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const Outcome outcome = run(kNoLauncher, all);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(std::regex_search(outcome.err, std::regex("cuda: .* \\| self: 1 worker \\| "))) << outcome.err;
}

TEST_F(Gpu, EveryStepIsTheSameBitsOverNcclAndThroughHostMemoryOnAnyNumberOfWorkers) {
  struct Variant {
    std::string model;
    bool sharded;
    std::vector<std::pair<int, bool>> worlds;  // workers; whether they share a GPU, without NCCL
  };
  const std::vector<Variant> variants = {
      {"mlp", false, {{1, false}, {2, false}, {4, false}, {1, true}, {2, true}, {4, true}}},
      {"mlp", true, {{3, false}, {2, true}}},
      {"cnn", false, {{2, false}, {4, true}}},
  };
  for (const Variant& variant : variants) {
    const bool cnn = variant.model == "cnn";
    write_file(scratch_.file("run.toml"), cnn ? configuration(digits(), kCnn, kAdam) : text(kMlp));
    const std::string name = variant.model + (variant.sharded ? "_sharded" : "");
    const std::string sharding =
        std::string("parallel.shard_optimizer=") + (variant.sharded ? "true" : "false");
    train(kNoLauncher, training(name, {"--set", sharding}));
    const std::vector<std::string> expected = course(name);
    EXPECT_GE(expected.size(), 24u);
    for (const auto& [workers, shared] : variant.worlds) {
      if (!shared && sharing_gpu()) continue;
      const std::string output = name + std::to_string(workers) + (shared ? "_shared" : "");
      train(workers, training(output, {"--set", sharding, "--set",
                                       std::string("parallel.share_gpu=") + (shared ? "true" : "false")}));
      EXPECT_EQ(course(output), expected) << output;
      EXPECT_EQ(run(kNoLauncher, {"diff", checkpoint_of(scratch_.file(name), 12),
                                  checkpoint_of(scratch_.file(output), 12)})
                    .exit_code,
                0);
    }
  }
}

// What the stand-ins for the CUDA runtime say about a run.
struct Asked {
  int64_t copies = 0;   // to the host
  int64_t kernels = 0;  // outside of graphs
  int64_t graphs = 0, allocations = 0;
};
Asked asked_of_devices(std::vector<std::string> arguments, int workers = kNoLauncher) {
  const std::string before = std::getenv("LOCKSTEP_CUDA_ON_CPU");
  ::setenv("LOCKSTEP_CUDA_ON_CPU", (before + ",count=1").c_str(), 1);
  arguments.insert(arguments.begin(), "train");
  const Outcome outcome = run(workers, arguments);
  ::setenv("LOCKSTEP_CUDA_ON_CPU", before.c_str(), 1);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::regex line(
      "cuda_on_cpu: (\\d+) copies to the host, (\\d+) kernels, (\\d+) graphs, (\\d+) allocations");
  Asked all;
  for (std::sregex_iterator found(outcome.err.begin(), outcome.err.end(), line), end; found != end; ++found) {
    all.copies += std::stoll((*found)[1]);
    all.kernels += std::stoll((*found)[2]);
    all.graphs += std::stoll((*found)[3]);
    all.allocations += std::stoll((*found)[4]);
  }
  EXPECT_GT(all.copies, 0) << outcome.err;
  return all;
}

int64_t copies_to_the_host(const std::vector<std::string>& arguments) {
  return asked_of_devices(arguments).copies;
}

TEST_F(Gpu, TheHostReadsTheDeviceAsOftenWhateverTheNumberOfMicroBatches) {
  if (std::getenv("LOCKSTEP_CUDA_ON_CPU") == nullptr) GTEST_SKIP() << "only stand-ins count copies";
  std::vector<int64_t> counts;
  for (const char* micro_batches : {"1", "2", "8"}) {
    counts.push_back(copies_to_the_host(
        training("out", {"--overwrite", "--set", std::string("train.micro_batches=") + micro_batches})));
  }
  EXPECT_EQ(counts, std::vector<int64_t>(3, counts[0]));
}

TEST_F(Gpu, AStepBringsOneReportToTheHostAndNothingElse) {
  if (std::getenv("LOCKSTEP_CUDA_ON_CPU") == nullptr) GTEST_SKIP() << "only stand-ins count copies";
  for (const std::string graph : {"false", "true"}) {
    const std::vector<std::string> more = {"--overwrite",      "--set", "parallel.digest_every=0",   "--set",
                                           "average.type=ema", "--set", "device.cuda_graph=" + graph};
    const auto of_steps = [&](const std::string& steps) {
      std::vector<std::string> arguments = training("out", more);
      arguments.insert(arguments.end(), {"--set", "train.steps=" + steps});
      return copies_to_the_host(arguments);
    };
    EXPECT_EQ(of_steps("36") - of_steps("12"), 24) << "graph " << graph;
  }
}

// A language model in bf16, its micro-batches added up, with dropout and clipping, on a text in whose every
// batch is a token that none before had.
TEST_F(Gpu, ARecordedStepIsOneGraphAndNothingElseHoweverManyMicroBatches) {
  if (std::getenv("LOCKSTEP_CUDA_ON_CPU") == nullptr) GTEST_SKIP() << "only stand-ins count";
  std::string tokens;
  for (int64_t i = 0; i < 60000; ++i) tokens += static_cast<char>(' ' + std::min<int64_t>(i / 64, 94));
  write_file(scratch_.file("text.txt"), tokens);
  ASSERT_EQ(run(kNoLauncher, {"tokenize", scratch_.file("text.txt"), "--tokenizer", "bytes", "--output",
                              scratch_.file("tokens.h5")})
                .exit_code,
            0);
  write_file(scratch_.file("gpt.toml"),
             "[run]\nseed = 1\n[data]\nformat = \"tokens\"\ntrain = \"" + scratch_.file("tokens.h5") +
                 "\"\ncontext = 16\nshuffle = false\n[model]\ntype = \"gpt\"\nlayers = 2\nwidth = 32\nheads "
                 "= 2\ndropout = 0.1\n"
                 "[train]\nmicro_batch_size = 2\n[optimizer]\ntype = \"adamw\"\nlearning_rate = 1e-3\n"
                 "[clip]\nglobal_norm = 1.0\n[precision]\ncompute = \"bf16\"\n[checkpoint]\nevery = 0\n");
  for (const int workers : {kNoLauncher, 2}) {
    if (workers > 1 && sharing_gpu()) continue;
    for (const char* micro_batches : {"2", "4"}) {
      SCOPED_TRACE(std::string(micro_batches) + " micro-batches, workers " + std::to_string(workers));
      const auto of_steps = [&](const std::string& steps) {
        return asked_of_devices({scratch_.file("gpt.toml"), "--output", scratch_.file("gpt"), "--overwrite",
                                 "--set", "device.cuda_graph=true", "parallel.digest_every=0",
                                 "train.steps=" + steps, std::string("train.micro_batches=") + micro_batches},
                                workers);
      };
      const Asked few = of_steps("8"), many = of_steps("20");
      const int64_t steps = 12 * (workers > 1 ? workers : 1);
      EXPECT_EQ(many.graphs - few.graphs, steps);
      EXPECT_EQ(many.kernels - few.kernels, 0);
      EXPECT_EQ(many.allocations - few.allocations, 0);
      EXPECT_EQ(many.copies - few.copies, steps);
    }
  }
}

TEST_F(Gpu, StepsUnderWayAndRecordedOnesEndInTheSameState) {
  struct Variant {
    std::string name, model;
    std::vector<std::string> settings;
  };
  const std::string fp16_overflow = "precision.initial_scale=1048576";
  const std::vector<Variant> variants = {
      {"mlp", "mlp", {"clip.global_norm=0.2"}},
      {"ema", "mlp", {"average.type=ema", "average.decay=0.9", "average.every=2", "average.start=3"}},
      {"fp16", "mlp", {"precision.compute=fp16", fp16_overflow, "precision.growth_interval=3"}},
      {"cnn", "cnn", {"precision.compute=bf16", "train.recompute_every=1", "schedule.warmup=8"}},
      {"sharded", "cnn", {"parallel.shard_optimizer=true", "optimizer.type=momentum"}},
  };
  for (const Variant& variant : variants) {
    SCOPED_TRACE(variant.name);
    write_file(scratch_.file("run.toml"),
               variant.model == "cnn" ? configuration(digits(), kCnn, kAdam) : text(kMlp));
    const auto arguments = [&](const std::string& output, std::vector<std::string> settings) {
      settings.insert(settings.end(), variant.settings.begin(), variant.settings.end());
      std::vector<std::string> more;
      for (const std::string& setting : settings) more.insert(more.end(), {"--set", setting});
      return training(output, more);
    };
    // With a digest each step the host waits for each; without, it is steps ahead.
    train(kNoLauncher, arguments(variant.name, {}));
    const std::vector<double> losses = losses_of(scratch_.file(variant.name));
    const std::string digest = digest_of(checkpoint_of(scratch_.file(variant.name), 12));
    if (variant.name == "fp16") {
      int skipped = 0;
      for (const nlohmann::json& line : metrics_of(scratch_.file("fp16")))
        skipped = line.value("skipped_steps", skipped);
      EXPECT_GE(skipped, 2);
    }
    for (const int workers : {kNoLauncher, 3}) {
      if (workers > 1 && sharing_gpu()) continue;
      for (const char* graph : {"false", "true"}) {
        const std::string output = variant.name + std::to_string(workers) + graph;
        train(workers,
              arguments(output, {"parallel.digest_every=0", std::string("device.cuda_graph=") + graph}));
        EXPECT_EQ(losses_of(scratch_.file(output)), losses) << output;
        EXPECT_EQ(digest_of(checkpoint_of(scratch_.file(output), 12)), digest) << output;
      }
    }
    // Half the way as recorded steps, the rest otherwise.
    const std::string output = variant.name + "_resumed";
    train(kNoLauncher, arguments(output, {"train.steps=7", "device.cuda_graph=true"}));
    std::vector<std::string> rest = arguments(output, {"device.cuda_graph=false", "parallel.digest_every=0"});
    rest.emplace_back("--resume");
    train(kNoLauncher, rest);
    EXPECT_EQ(digest_of(checkpoint_of(scratch_.file(output), 12)), digest);
  }
}

TEST_F(Gpu, WhatCannotBeRecordedEndsInOneLineAndTheRightExitCode) {
  // More than the device has, when the memory of recordings comes on top: whatever happens is said in one
  // line.
  const char* before = std::getenv("LOCKSTEP_CUDA_ON_CPU");
  if (before == nullptr) GTEST_SKIP() << "needs a device that is soon full";
  const std::string settings = before;
  std::vector<std::string> arguments = training(
      "full", {"--set", "device.cuda_graph=true", "--set", "model.hidden=[512,512]", "--set",
               "train.micro_batch_size=512", "--set", "train.steps=4", "--set", "parallel.digest_every=0"});
  arguments.insert(arguments.begin(), "train");
  std::set<int> codes;
  for (int mebibytes = 36; mebibytes <= 76; mebibytes += 8) {
    ::setenv("LOCKSTEP_CUDA_ON_CPU", (settings + ",memory_mb=" + std::to_string(mebibytes)).c_str(), 1);
    const Outcome outcome = run(kNoLauncher, [&] {
      std::vector<std::string> once = arguments;
      once.emplace_back("--overwrite");
      return once;
    }());
    codes.insert(outcome.exit_code);
    EXPECT_TRUE(outcome.exit_code == 0 || outcome.exit_code == 2) << mebibytes << " MiB: " << outcome.err;
    if (outcome.exit_code == 2) {
      EXPECT_NE(outcome.err.find("no room for"), std::string::npos) << outcome.err;
    }
  }
  ::setenv("LOCKSTEP_CUDA_ON_CPU", settings.c_str(), 1);
  EXPECT_EQ(codes, (std::set<int>{0, 2})) << "the sizes above are to lie on both sides";
}

// As it is not by starting again.
TEST_F(Gpu, WhatTheUserHasToChangeAboutAGpuIsALineAndExitCodeTwo) {
  for (const auto& [state, said] :
       {std::pair<std::string, std::string>{"memory_mb=0", "memory: cuda: device: .*need less"},
        {"gpu=busy", "cuda: device: .*another program"},
        {"gpu=foreign", "cuda: .*kernel.*: this build is for "},
        {"devices=0", "cuda: no GPU is visible: CUDA_VISIBLE_DEVICES is \"7\""}}) {
    const StandIns full(state);
    if (!full.there()) GTEST_SKIP() << "needs a device in such a state";
    std::vector<std::string> arguments = training("out", {});
    arguments.insert(arguments.begin(), "train");
    if (state == "devices=0") ::setenv("CUDA_VISIBLE_DEVICES", "7", 1);
    const Outcome outcome = run(kNoLauncher, arguments);
    ::unsetenv("CUDA_VISIBLE_DEVICES");
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_TRUE(std::regex_match(outcome.err, std::regex("error: " + said + ".*\n"))) << outcome.err;
  }
}

TEST_F(Gpu, ADivergenceThatIsSeenStepsLaterStillKeepsTheLastCheckpoint) {
  std::vector<std::string> arguments =
      training("out", {"--set", "parallel.digest_every=0", "--set", "checkpoint.every=2", "--set",
                       "optimizer.type=sgd", "--set", "optimizer.learning_rate=1e30"});
  arguments.insert(arguments.begin(), "train");
  const Outcome outcome = run(kNoLauncher, arguments);
  EXPECT_EQ(outcome.exit_code, 5) << outcome.err;
  EXPECT_TRUE(std::regex_search(outcome.err, std::regex("error: step [2-9]: training diverged: ")))
      << outcome.err;
}

TEST_F(Gpu, AGraphThatCannotBeRecordedIsRefusedSayingWhy) {
  const auto refusal = [&](int workers, const std::vector<std::string>& settings) {
    std::vector<std::string> arguments = training("out", {"--set", "device.cuda_graph=true"});
    arguments.insert(arguments.begin(), "train");
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    const Outcome outcome = run(workers, arguments);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    return outcome.err;
  };
  EXPECT_NE(refusal(kNoLauncher, {"optimizer.type=lamb"}).find("optimizer.type = \"lamb\""),
            std::string::npos);
  EXPECT_NE(refusal(kNoLauncher, {"train.l2=0.1"}).find("train.l2"), std::string::npos);
  EXPECT_NE(refusal(kNoLauncher, {"device.type=cpu"}).find("device.cuda_graph: needs a GPU"),
            std::string::npos);
  EXPECT_NE(
      refusal(2, {"parallel.share_gpu=true"}).find("device.cuda_graph: arrays that travel through the host"),
      std::string::npos);
}

TEST_F(Gpu, ARefusedGraphDeletesNoCheckpoints) {
  train(kNoLauncher, training("out"));
  const std::string digest = digest_of(checkpoint_of(scratch_.file("out"), 12));
  std::vector<std::string> arguments =
      training("out", {"--overwrite", "--set", "device.cuda_graph=true", "--set", "train.l2=0.1"});
  arguments.insert(arguments.begin(), "train");
  EXPECT_EQ(run(kNoLauncher, arguments).exit_code, 2);
  EXPECT_EQ(digest_of(checkpoint_of(scratch_.file("out"), 12)), digest);
}

TEST_F(Gpu, AnIndexOutOfRangeIsSeenInRecordedStepsToo) {
  write_file(scratch_.file("run.toml"),
             configuration("train = \"" LOCKSTEP_ROOT
                           "/tests/data/files/tokens_with_an_outlier.h5\"\nshuffle = false\n",
                           "type = \"sequential\"\nlayers = [{type = \"embedding\", rows = 8, width = 2}, "
                           "{type = \"flatten\"}, {type = \"linear\", units = 3}]\n",
                           kAdam));
  for (const char* graph : {"false", "true"}) {
    std::vector<std::string> arguments =
        training("out", {"--overwrite", "--set", "parallel.digest_every=0", "--set", "train.steps=30",
                         "--set", std::string("device.cuda_graph=") + graph});
    arguments.insert(arguments.begin(), "train");
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
    EXPECT_NE(outcome.err.find("is outside [0, 8)"), std::string::npos) << outcome.err;
  }
}

TEST_F(Gpu, TheWayOfArraysCanBeChosenAndIsSaid) {
  for (const auto& [settings, way] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"parallel.share_gpu=true"}, "arrays through host memory"},
           {{"parallel.share_gpu=true", "parallel.gpu_transport=host"}, "arrays through host memory"},
           {{"parallel.share_gpu=true", "parallel.gpu_transport=nccl"}, "arrays through NCCL "}}) {
    if (way == "arrays through NCCL " && sharing_gpu()) continue;
    std::vector<std::string> arguments = training("out", {"--overwrite", "--set", "train.steps=2"});
    arguments.insert(arguments.begin(), "train");
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    const Outcome outcome = run(2, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find(" | " + way), std::string::npos) << outcome.err;
  }
}

// It would say so too, but each worker for itself, and as if another start could help.
TEST_F(Gpu, WorkersThatShareAGpuAreNotGivenToNccl) {
  const StandIns one("devices=1");
  if (!one.there()) GTEST_SKIP() << "needs a machine with one device";
  std::vector<std::string> arguments = training(
      "out",
      {"--overwrite", "--set", "train.steps=2", "parallel.share_gpu=true", "parallel.gpu_transport=nccl"});
  arguments.insert(arguments.begin(), "train");
  const Outcome refused = run(2, arguments);
  EXPECT_EQ(refused.exit_code, 2) << refused.err;
  EXPECT_TRUE(std::regex_search(
      refused.err, std::regex("error: parallel.gpu_transport: ranks 0 and 1 have one GPU between them "
                              "\\(GPU-[0-9a-f-]+\\), which NCCL refuses: .*\"auto\".*\n")))
      << refused.err;
  // A later NCCL can be told not to.
  ::setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 1);
  const Outcome told = run(2, arguments);
  ::unsetenv("NCCL_MULTI_RANK_GPU_ENABLE");
  EXPECT_EQ(told.exit_code, 0) << told.err;
  EXPECT_NE(told.err.find(" | arrays through NCCL "), std::string::npos) << told.err;
}

TEST_F(Gpu, LibraryReductionAgreesWithinRounding) {
  train(kNoLauncher, training("alone"));
  const std::vector<double> expected = losses_of(scratch_.file("alone"));
  for (const char* shared : {"false", "true"}) {
    if (*shared == 'f' && sharing_gpu()) continue;
    const std::string output = std::string("library") + shared;
    train(3, training(output, {"--set", "parallel.reduction=library", "--set",
                               std::string("parallel.share_gpu=") + shared}));
    const std::vector<double> losses = losses_of(scratch_.file(output));
    ASSERT_EQ(losses.size(), expected.size());
    for (size_t i = 0; i < losses.size(); ++i)
      EXPECT_NEAR(losses[i], expected[i], 1e-5 * std::abs(expected[i]));
  }
}

TEST_F(Gpu, ARunMovesToTheCpuAndBackThroughItsCheckpoints) {
  train(kNoLauncher, training("straight", {"--device", "cpu"}));
  train(2, training("moved", {"--set", "train.steps=4"}));
  train(3, training("moved", {"--set", "train.steps=8", "--resume", "--device", "cpu"}));
  train(kNoLauncher, training("moved", {"--resume"}));
  const std::vector<double> expected = losses_of(scratch_.file("straight")),
                            losses = losses_of(scratch_.file("moved"));
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t i = 0; i < losses.size(); ++i)
    EXPECT_NEAR(losses[i], expected[i], 1e-4 * std::abs(expected[i])) << i;
}

TEST_F(Gpu, ACheckpointEvaluatesToTheSameLineOnAnyNumberOfWorkers) {
  train(kNoLauncher, training("out"));
  const std::vector<std::string> arguments = {"eval", scratch_.file("run.toml"), "--checkpoint",
                                              checkpoint_of(scratch_.file("out"), 12)};
  const Outcome alone = run(kNoLauncher, arguments);
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_EQ(run(2, arguments).out, alone.out);
}

// Two workers, each with what is its own alone: options of mpirun, options of the command.
using Own = std::pair<std::vector<std::string>, std::vector<std::string>>;
std::vector<std::string> together(const std::vector<std::string>& arguments, const Own& first,
                                  const Own& second) {
  std::vector<std::string> command = {LOCKSTEP_MPIEXEC, "-q"};
  for (const Own* own : {&first, &second}) {
    command.insert(command.end(), {"-np", "1"});
    command.insert(command.end(), own->first.begin(), own->first.end());
    command.emplace_back(LOCKSTEP_COMMAND);
    command.insert(command.end(), arguments.begin(), arguments.end());
    command.insert(command.end(), own->second.begin(), own->second.end());
    if (own == &first) command.emplace_back(":");
  }
  return command;
}

class GpuPlans : public Gpu {
 protected:
  // Trains, with tuning unless `more` says otherwise, and returns the log.
  std::string tuned(int workers, const std::string& output, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = training(output, {"--set", "device.tune=true"});
    arguments.insert(arguments.begin(), "train");
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = run(workers, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.err;
  }
  static bool has(const std::string& log, const std::string& pattern) {
    return std::regex_search(log, std::regex(pattern));
  }
  std::string cache(const std::string& name) const { return scratch_.file(name + ".cache"); }
  static void use_cache(const std::string& path) { ::setenv("LOCKSTEP_PLAN_CACHE", path.c_str(), 1); }
  void TearDown() override { ::unsetenv("LOCKSTEP_PLAN_CACHE"); }
};

// Candidates of the stand-ins differ in bits, and which is fastest is told to them.
TEST_F(GpuPlans, TunedRunsAreTheSameBitsOnAnyNumberOfWorkers) {
  train(kNoLauncher, training("first"));
  const StandIns fastest("fastest=1");
  const std::string log = tuned(kNoLauncher, "alone");
  EXPECT_TRUE(has(log, "[1-9]\\d* plans: [1-9]\\d* measured in \\d+\\.\\d s\n")) << log;
  if (fastest.there()) {
    EXPECT_NE(course("alone"), course("first"));
  }
  for (const int workers : {2, 3}) {
    const std::string output = std::to_string(workers);
    tuned(workers, output);
    EXPECT_EQ(course(output), course("alone"));
    EXPECT_EQ(run(kNoLauncher, {"diff", checkpoint_of(scratch_.file("alone"), 12),
                                checkpoint_of(scratch_.file(output), 12)})
                  .exit_code,
              0);
  }
  const Outcome inspected = run(kNoLauncher, {"inspect", checkpoint_of(scratch_.file("alone"), 12)});
  EXPECT_TRUE(has(inspected.out, "\nplans: [1-9]\\d* of .*, cuBLASLt \\d+")) << inspected.out;
}

// A run that measures, and finds the library's first proposals fastest, is the run that did not measure.
// Algorithms depend on the alignment of addresses: a worker's second micro-batch must lie as its first does.
TEST_F(GpuPlans, MicroBatchesOfOddSizesAreComputedAlikeWhateverTheirPlace) {
  const StandIns fastest("fastest=1");
  const std::vector<std::string> odd = {"--set", "train.micro_batch_size=3"};
  tuned(kNoLauncher, "odd", odd);
  for (const int workers : {2, 3, 4}) {
    const std::string output = "odd" + std::to_string(workers);
    tuned(workers, output, odd);
    EXPECT_EQ(course(output), course("odd")) << workers << " workers";
  }
}

TEST_F(GpuPlans, TheRehearsalChangesNothing) {
  const StandIns fastest("fastest=0");
  if (!fastest.there()) GTEST_SKIP() << "only stand-ins can be told what is fastest";
  for (const std::string& model : {text(kMlp), configuration(digits(), kCnn, kAdam)}) {
    write_file(scratch_.file("run.toml"), model);
    train(2, training("first", {"--overwrite"}));
    tuned(2, "rehearsed", {"--overwrite"});
    EXPECT_EQ(course("rehearsed"), course("first"));
  }
}

TEST_F(GpuPlans, AResumedRunKeepsItsPlansWhateverIsFastestNow) {
  {
    const StandIns fastest("fastest=1");
    tuned(kNoLauncher, "straight");
    tuned(2, "resumed", {"--set", "train.steps=4"});
  }
  const StandIns fastest("fastest=2");
  const std::string log = tuned(3, "resumed", {"--set", "train.steps=8", "--resume"});
  EXPECT_FALSE(has(log, "measured")) << log;
  tuned(kNoLauncher, "resumed", {"--set", "device.tune=false", "--resume"});
  EXPECT_EQ(course("resumed"), course("straight"));
  tuned(kNoLauncher, "other");
  if (fastest.there()) {
    EXPECT_NE(course("other"), course("straight"));
  }
  // On the CPU it has none, and back on a GPU it chooses anew.
  tuned(2, "moved", {"--set", "train.steps=4"});
  tuned(2, "moved", {"--set", "train.steps=8", "--resume", "--device", "cpu"});
  const std::string back = tuned(2, "moved", {"--resume"});
  EXPECT_TRUE(has(back, "measured")) << back;
}

TEST_F(GpuPlans, WorkersWithCachesOfTheirOwnUseRankZeros) {
  const StandIns stand_ins("seed=0");
  if (!stand_ins.there()) GTEST_SKIP() << "only stand-ins can be told what is fastest";
  std::vector<std::vector<std::string>> courses;
  for (const std::string number : {"1", "2"}) {
    const StandIns fastest("fastest=" + number);
    use_cache(cache(number));
    EXPECT_TRUE(has(tuned(kNoLauncher, "fastest" + number), "measured in [^ ]* s, 0 of "));
    courses.push_back(course("fastest" + number));
  }
  // Were each worker to use its own, these bits would meet in one run.
  ASSERT_NE(courses[0], courses[1]);
  std::vector<std::string> arguments = training("out", {"--overwrite", "--set", "device.tune=true"});
  arguments.insert(arguments.begin(), "train");
  for (const size_t first : {size_t{0}, size_t{1}}) {
    const std::string mine = cache(std::to_string(1 + first)), other = cache(std::to_string(2 - first));
    const Outcome outcome = Job(together(arguments, {{"-x", "LOCKSTEP_PLAN_CACHE=" + mine}, {}},
                                         {{"-x", "LOCKSTEP_PLAN_CACHE=" + other}, {}}))
                                .wait();
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "plans: 0 measured in [^ ]* s, [1-9]\\d* of " + mine)) << outcome.err;
    EXPECT_EQ(course("out"), courses[first]);
  }
}

TEST_F(GpuPlans, ACacheThatIsDamagedOrCannotBeWrittenIsAWarning) {
  use_cache(cache("damaged"));
  write_file(cache("damaged"), "lockstep plans\n");
  const std::string damaged = tuned(2, "damaged");
  EXPECT_TRUE(
      has(damaged,
          "warning: LOCKSTEP_PLAN_CACHE: .*/damaged\\.cache: not a cache of plans, or damaged: left alone\n"))
      << damaged;
  EXPECT_EQ(bytes_of(cache("damaged")), "lockstep plans\n");
  use_cache(cache("nowhere/plans"));
  const std::string unwritable = tuned(2, "unwritable");
  EXPECT_TRUE(has(unwritable, "warning: LOCKSTEP_PLAN_CACHE: .*/nowhere/plans\\.cache: cannot be written: "))
      << unwritable;
  EXPECT_EQ(course("unwritable"), course("damaged"));
}

TEST_F(GpuPlans, ACheckpointIsEvaluatedWithThem) {
  const StandIns fastest("fastest=1");
  tuned(2, "out");
  const std::vector<std::string> arguments = {"eval", scratch_.file("run.toml"), "--checkpoint",
                                              checkpoint_of(scratch_.file("out"), 12)};
  const Outcome alone = run(kNoLauncher, arguments);
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_EQ(run(2, arguments).out, alone.out);
}

TEST_F(Device, TuningOnTheCpuIsALineAndChangesNothing) {
  train(kNoLauncher, training("plain", {"--device", "cpu"}));
  std::vector<std::string> arguments = training("tuned", {"--device", "cpu", "--set", "device.tune=true"});
  arguments.insert(arguments.begin(), "train");
  const Outcome outcome = run(2, arguments);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string line = "device.tune: there is nothing to tune on the CPU\n";
  const size_t found = outcome.err.find(line);
  EXPECT_NE(found, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find(line, found + 1), std::string::npos) << "once";
  EXPECT_EQ(course("tuned"), course("plain"));
}

TEST_F(Gpu, AWorkerMaySeeItsOwnGpuAlone) {
  if (sharing_gpu()) GTEST_SKIP() << "needs two GPUs";
  const char* before = std::getenv("LOCKSTEP_CUDA_ON_CPU");
  const std::string settings = before != nullptr ? before : "";
  ::setenv("LOCKSTEP_CUDA_ON_CPU", (settings.empty() ? "devices=1" : settings + ",devices=1").c_str(), 1);
  std::vector<std::string> arguments = training("out");
  arguments.insert(arguments.begin(), "train");
  const Outcome outcome =
      Job(together(arguments, {{"-x", "CUDA_VISIBLE_DEVICES=0"}, {}}, {{"-x", "CUDA_VISIBLE_DEVICES=1"}, {}}))
          .wait();
  ::setenv("LOCKSTEP_CUDA_ON_CPU", settings.c_str(), 1);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST_F(Gpu, WorkersThatWouldMoveArraysDifferentlyAreRefusedBeforeTheyWaitForEachOther) {
  std::vector<std::string> arguments = training("out", {"--set", "parallel.timeout=20"});
  arguments.insert(arguments.begin(), "train");
  const std::vector<std::string> host = {"--set", "parallel.gpu_transport=host"};
  for (const auto& [first, second] :
       {std::pair{host, std::vector<std::string>()}, std::pair{std::vector<std::string>(), host}}) {
    if (sharing_gpu()) GTEST_SKIP() << "arrays go through host memory";
    const Outcome outcome = Job(together(arguments, {{}, first}, {{}, second})).wait();
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_TRUE(std::regex_match(
        outcome.err, std::regex("error: parallel.gpu_transport: workers differ: rank 0 has .*NCCL.*\n|"
                                "error: parallel.gpu_transport: workers differ: .*rank 1 has .*NCCL.*\n")))
        << outcome.err;
  }
  const Outcome outcome = Job(together(arguments, {{}, {}}, {{}, {"--device", "cpu"}})).wait();
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  EXPECT_TRUE(
      std::regex_match(outcome.err, std::regex("error: device.type: workers differ: rank 0 has \"cuda: .*\", "
                                               "rank 1 has \"cpu: .*\n")))
      << outcome.err;
}

TEST_F(Gpu, TwoWorkersOnOneGpuAreRefusedNamingIt) {
  const char* before = std::getenv("LOCKSTEP_CUDA_ON_CPU");
  const std::string settings = before != nullptr ? before : "";
  ::setenv("LOCKSTEP_CUDA_ON_CPU", (settings.empty() ? "devices=1" : settings + ",devices=1").c_str(), 1);
  ::setenv("CUDA_VISIBLE_DEVICES", "0", 1);
  std::vector<std::string> arguments = training("out", {"--set", "parallel.share_gpu=false"});
  arguments.insert(arguments.begin(), "train");
  const Outcome outcome = run(2, arguments);
  ::setenv("LOCKSTEP_CUDA_ON_CPU", settings.c_str(), 1);
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("device.type: ranks 0 and 1 have one GPU between them (GPU-"), std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace lockstep::testing
