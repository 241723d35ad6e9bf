// Sharded optimizers and averaged weights under the Lockstep guarantee: the bits of one worker, through
// interruptions too.
#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class Sharding : public ::testing::Test {
 protected:
  Sharding() { write_file(scratch_.file("points.csv"), points_csv(53, 3)); }

  std::string file(const std::string& optimizer, const std::string& model = kMlp,
                   const std::string& data = "") {
    const std::string path = scratch_.file("run.toml");
    write_file(path, configuration(data.empty() ? "train = \"" + scratch_.file("points.csv") +
                                                      "\"\nvalidation_fraction = 0.2\n"
                                                : data,
                                   model, optimizer));
    return path;
  }

  // The course and the checkpoint of the run must be those of `expected`, an output directory.
  void expect_same(const std::string& output, const std::string& expected) {
    EXPECT_EQ(course_of(output), course_of(expected));
    const Outcome difference =
        run(kNoLauncher, {"diff", checkpoint_of(output, 12), checkpoint_of(expected, 12)});
    EXPECT_EQ(difference.exit_code, 0) << difference.out << difference.err;
  }

  ScratchDirectory scratch_;
};

const std::vector<std::string> kSharded = {"--set", "parallel.shard_optimizer=true"};

std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// Digested a piece at a time: the parameter is larger than a piece.
TEST_F(Sharding, TheDigestInTheMetricsIsThatOfTheCheckpoint) {
  const std::string path = file("type = \"adam\"\n", "type = \"mlp\"\nhidden = [8, 200000]\n");
  for (const auto& [workers, sharded] : {std::pair{kNoLauncher, false}, {3, false}, {3, true}}) {
    const std::string output = scratch_.file(std::to_string(workers) + (sharded ? "sharded" : ""));
    train(workers, with({path, "--output", output, "--set", "train.steps=2", "train.evaluate_every=0",
                         "checkpoint.every=2", "parallel.digest_every=2"},
                        sharded ? kSharded : std::vector<std::string>()));
    const std::string digest = digest_of(checkpoint_of(output, 2));
    EXPECT_NE(bytes_of(output + "/metrics.jsonl").find(digest.substr(0, 32)), std::string::npos) << digest;
    EXPECT_EQ(digest, digest_of(checkpoint_of(scratch_.file(std::to_string(kNoLauncher)), 2)));
  }
}

TEST_F(Sharding, ChangesNoBitOnAnyNumberOfWorkers) {
  const std::vector<std::pair<std::string, std::string>> optimizers = {
      {"adamw", ""},
      {"lamb", ""},
      {"muon", ""},
      {"shampoo", "block = 16\nroot_every = 3\n"},
      {"nesterov", ""},
      {"soap", "basis_every = 3\n"},
      {"sophia", "every = 2\n"},
      {"adahessian", "every = 2\n"},
      {"kfac", "method = \"ekfac\"\nfactor_every = 2\ninverse_every = 4\nadapt_every = 3\n"}};
  for (const auto& [type, more] : optimizers) {
    SCOPED_TRACE(type);
    const std::string path =
        file("type = \"" + type + "\"\nlearning_rate = 0.02\n" + more, "type = \"mlp\"\nhidden = [40, 20]\n");
    const bool curved = type == "kfac" || type == "sophia" || type == "adahessian";
    if (!curved) write_file(path, bytes_of(path) + "[clip]\nglobal_norm = 0.3\nvalue = 0.2\n");
    const std::string expected = scratch_.file(type);
    train(kNoLauncher, {path, "--output", expected});
    EXPECT_EQ(course_of(expected).size(), 25u);
    for (const int workers : all_or_first(1, {3, 1, 2, 4})) {
      SCOPED_TRACE(workers);
      const std::string output = scratch_.file(type + " sharded " + std::to_string(workers));
      train(workers, with({path, "--output", output}, kSharded));
      expect_same(output, expected);
    }
  }
}

TEST_F(Sharding, ChangesNoBitWithBatchNormAdaptiveClippingAndAverages) {
  const std::string path = file("type = \"adam\"\nlearning_rate = 0.01\n", kCnn, digits());
  write_file(path, bytes_of(path) + "[clip]\nadaptive = 0.05\nglobal_norm = 0.5\n");
  for (const std::string average : {"ema", "swa"}) {
    SCOPED_TRACE(average);
    const std::vector<std::string> averaged = {"--set", "average.type=" + average, "--set",
                                               "average.start=4"};
    const std::string expected = scratch_.file(average);
    train(kNoLauncher, with({path, "--output", expected}, averaged));
    EXPECT_EQ(metrics_of(expected).back()["weights"], "averaged");
    for (const int workers : all_or_first(1, {2, 3})) {
      SCOPED_TRACE(workers);
      const std::string output = scratch_.file(average + " sharded " + std::to_string(workers));
      train(workers, with(with({path, "--output", output}, averaged), kSharded));
      expect_same(output, expected);
    }
    const std::string whole = scratch_.file(average + " whole");
    train(3, with({path, "--output", whole}, averaged));
    expect_same(whole, expected);
  }
}

// Killed at any time, and resumed on other numbers of workers that shard or do not.
TEST_F(Sharding, KilledAndResumedWithAndWithoutItItEndsInTheSameState) {
  Chance chance;
  SCOPED_TRACE(chance.description());
  const std::vector<std::pair<std::string, std::string>> optimizers = {
      {"type = \"nesterov\"\nlearning_rate = 0.05\n", "[clip]\nglobal_norm = 0.5\n"},
      {"type = \"kfac\"\nlearning_rate = 0.05\nmethod = \"ekfac\"\nfactor_every = 2\ninverse_every = 5\n"
       "adapt_every = 4\n",
       ""}};
  for (const auto& [optimizer, clip] : optimizers) {
    SCOPED_TRACE(optimizer);
    const std::string path = file(optimizer, kMlp);
    write_file(path, bytes_of(path) + "[average]\ntype = \"ema\"\ndecay = 0.9\n" + clip);
    const std::string number = clip.empty() ? " kfac" : "";
    const std::string output = scratch_.file("interrupted" + number),
                      straight = scratch_.file("straight" + number);
    std::vector<std::string> arguments = {"train",    path,
                                          "--output", output,
                                          "--set",    "checkpoint.every=3",
                                          "--set",    "parallel.digest_every=0",
                                          "--set",    "train.steps=1000000000"};
    for (const auto& [workers, sharded] :
         all_or_first<std::pair<int, bool>>(2, {{3, true}, {1, false}, {4, true}, {2, true}, {3, false}})) {
      const int64_t enough = newest_checkpoint(output) + 3 * chance.between(1, 8);
      Job job(Job::on_workers(workers, sharded ? with(arguments, kSharded) : arguments));
      ASSERT_TRUE(job.wait_until([&] { return newest_checkpoint(output) >= enough; })) << job.wait(0.0).err;
      std::this_thread::sleep_for(std::chrono::microseconds(chance.between(0, 20000)));
      job.kill_all();
      if (arguments.back() != "--resume") arguments.emplace_back("--resume");
    }
    const int64_t steps = newest_checkpoint(output) + chance.between(1, 5);
    const std::string limit = "train.steps=" + std::to_string(steps);
    train(2, with({path, "--output", output, "--set", limit, "--resume"}, kSharded));
    train(kNoLauncher, {path, "--output", straight, "--set", limit});
    const Outcome difference =
        run(kNoLauncher, {"diff", checkpoint_of(output, steps), checkpoint_of(straight, steps)});
    EXPECT_EQ(difference.exit_code, 0) << difference.out << difference.err;
    EXPECT_EQ(losses_of(output), losses_of(straight));
  }
}

TEST_F(Sharding, WithLibraryReductionAgreesWithinRounding) {
  const std::string path = file(kAdam);
  train(3, {path, "--output", scratch_.file("lockstep")});
  train(3,
        with({path, "--output", scratch_.file("library"), "--set", "parallel.reduction=library"}, kSharded));
  const std::vector<double> expected = losses_of(scratch_.file("lockstep")),
                            losses = losses_of(scratch_.file("library"));
  ASSERT_EQ(losses.size(), expected.size());
  for (size_t i = 0; i < losses.size(); ++i)
    EXPECT_NEAR(losses[i], expected[i], 1e-5 * std::abs(expected[i])) << i;
}

TEST_F(Sharding, EachWorkerSaysWhatItHolds) {
  // A little less than 4 Mi parameters, with two moments each.
  const std::string path =
      file("type = \"adam\"\n", "type = \"mlp\"\nhidden = [1020, 1020, 1020, 1020, 1020]\n");
  const Outcome whole = run(2, {"train", path, "--output", scratch_.file("whole"), "--set", "train.steps=1"});
  const Outcome shared =
      run(2, with({"train", path, "--output", scratch_.file("shared"), "--set", "train.steps=1"}, kSharded));
  EXPECT_NE(whole.err.find("optimizer state 32.0"), std::string::npos) << whole.err;
  EXPECT_NE(shared.err.find("optimizer state 16.0"), std::string::npos) << shared.err;
  EXPECT_NE(shared.err.find("(its share of 2 workers)"), std::string::npos) << shared.err;
}

class Averaging : public Sharding {
 protected:
  nlohmann::json evaluated(const std::string& path, const std::string& checkpoint,
                           const std::vector<std::string>& more = {}, int workers = kNoLauncher) {
    const Outcome outcome = run(workers, with({"eval", path, "--checkpoint", checkpoint}, more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out, nullptr, false);
  }
};

TEST_F(Averaging, ChangesNothingAboutTraining) {
  const std::string path = file(kAdam, kCnn, digits());
  train(kNoLauncher, {path, "--output", scratch_.file("plain"), "--set", "train.evaluate_every=4"});
  for (const std::string type : {"ema", "swa"}) {
    const std::string output = scratch_.file(type);
    train(kNoLauncher,
          {path, "--output", output, "--set", "train.evaluate_every=4", "--set", "average.type=" + type});
    EXPECT_EQ(losses_of(output), losses_of(scratch_.file("plain")));
    const Outcome difference =
        run(kNoLauncher, {"diff", checkpoint_of(scratch_.file("plain"), 12), checkpoint_of(output, 12)});
    EXPECT_EQ(difference.exit_code, 1);
    EXPECT_EQ(("\n" + difference.out).find("\n/parameters/"), std::string::npos) << difference.out;
    EXPECT_NE(difference.out.find("/average/parameters/"), std::string::npos) << difference.out;
  }
}

TEST_F(Averaging, EvaluationTakesTheAveragedWeightsUnlessToldOtherwise) {
  const std::string path = file(kAdam, kCnn, digits());
  for (const std::string type : {"ema", "swa"}) {
    SCOPED_TRACE(type);
    const std::string output = scratch_.file(type);
    train(2, {path, "--output", output, "--set", "average.type=" + type});
    const std::string checkpoint = checkpoint_of(output, 12);
    const nlohmann::json averaged = evaluated(path, checkpoint),
                         trained = evaluated(path, checkpoint, {"--weights", "trained"});
    EXPECT_EQ(averaged["weights"], "averaged");
    EXPECT_EQ(trained["weights"], "trained");
    EXPECT_NE(averaged["loss"], trained["loss"]);
    // What the run itself said, and whoever asks.
    EXPECT_EQ(metrics_of(output).back()["validation_loss"], averaged["loss"]);
    EXPECT_EQ(evaluated(path, checkpoint, {"--weights", "averaged"}, 3), averaged);
  }
  const std::string plain = scratch_.file("plain");
  train(kNoLauncher, {path, "--output", plain});
  EXPECT_EQ(evaluated(path, checkpoint_of(plain, 12))["weights"], "trained");
  const Outcome refused =
      run(kNoLauncher, {"eval", path, "--checkpoint", checkpoint_of(plain, 12), "--weights", "averaged"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("it has no averaged weights"), std::string::npos) << refused.err;
}

TEST_F(Averaging, AResumedRunMustKeepIt) {
  const std::string path = file(kAdam);
  const std::string averaged = scratch_.file("averaged"), plain = scratch_.file("plain");
  train(kNoLauncher, {path, "--output", averaged, "--set", "average.type=ema"});
  train(kNoLauncher, {path, "--output", plain});
  for (const auto& [output, change, message] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {averaged, "average.type=none",
            "average.type = \"none\", it was \"ema\"; a resumed run must keep it"},
           {plain, "average.type=ema", "average.type = \"ema\", it was \"none\"; a resumed run must keep it"},
           {averaged, "average.decay=0.5", "average.decay"}}) {
    std::vector<std::string> arguments = {"train",          path,    "--output", output, "--resume", "--set",
                                          "train.steps=14", "--set", change};
    if (change == "average.decay=0.5") arguments = with(arguments, {"--set", "average.type=ema"});
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
    EXPECT_NE(outcome.err.find(message), std::string::npos) << outcome.err;
  }
}

TEST_F(Averaging, BadKeysAreRefusedByName) {
  const std::string path = file(kAdam);
  for (const std::string setting : {"parallel.shard_optimizer=1", "parallel.shard_optimizer=yes",
                                    "average.type=mean", "average.decay=0.9", "average.kind=ema"}) {
    const Outcome outcome =
        run(kNoLauncher, {"train", path, "--output", scratch_.file("none"), "--set", setting});
    EXPECT_EQ(outcome.exit_code, 2) << setting << outcome.err;
    EXPECT_NE(outcome.err.find(setting.substr(0, setting.find('='))), std::string::npos) << outcome.err;
  }
}

}  // namespace
}  // namespace lockstep::testing
