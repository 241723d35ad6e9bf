// Bad input gets one clear line, the right exit code, and no worker that hangs or repeats it.
#include <regex>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

// The job ends in time with this code, and the whole of stderr is one line "error: ..." that holds a match of
// `expected`.
void expect_refusal(const std::vector<std::string>& command, int exit_code, const std::string& expected) {
  std::string line;
  for (const std::string& argument : command) line += argument + ' ';
  SCOPED_TRACE(line);
  const Outcome outcome = Job(command).wait(30.0);
  EXPECT_EQ(outcome.exit_code, exit_code);
  EXPECT_TRUE(std::regex_search(outcome.err, std::regex("^(\\[rank \\d+\\] )?error: "))) << outcome.err;
  EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << outcome.err;
  EXPECT_TRUE(std::regex_search(outcome.err, std::regex(expected)))
      << outcome.err << "expected: " << expected;
  EXPECT_EQ(outcome.out, "");
}

void expect_refusal(int workers, const std::vector<std::string>& arguments, int exit_code,
                    const std::string& expected) {
  expect_refusal(Job::on_workers(workers, arguments), exit_code, expected);
}

class Refusal : public ::testing::Test {
 protected:
  Refusal() {
    write_file(scratch_.file("points.csv"), points_csv(53, 3));
    write_file(scratch_.file("run.toml"), text());
  }
  std::string text() const {
    return configuration("train = \"" + scratch_.file("points.csv") + "\"\n", kMlp, kAdam);
  }
  // `train` with changed settings.
  std::vector<std::string> training(const std::vector<std::string>& settings,
                                    const std::string& output = "out") const {
    std::vector<std::string> arguments = {"train", scratch_.file("run.toml"), "--output",
                                          scratch_.file(output)};
    for (const std::string& setting : settings) {
      arguments.emplace_back("--set");
      arguments.push_back(setting);
    }
    return arguments;
  }
  std::vector<std::string> resuming(const std::string& output,
                                    const std::vector<std::string>& settings = {}) const {
    std::vector<std::string> arguments = training(settings, output);
    arguments.emplace_back("--resume");
    return arguments;
  }

  ScratchDirectory scratch_;
};

struct BadSetting {
  std::vector<std::string> settings;
  std::string expected;
};

TEST_F(Refusal, BadSettingsExitWith2AndSayWhichKeyAndWhichRule) {
  const std::vector<BadSetting> table = {
      {{"optimizer.learnin_rate=1"},
       "--set: optimizer\\.learnin_rate: unknown key: did you mean optimizer\\.learning_rate"},
      {{"optimiser.type=adam"}, "optimiser: unknown key: did you mean optimizer"},
      {{"train.learning_rate=1"},
       "train\\.learning_rate: unknown key: did you mean .*optimizer\\.learning_rate"},
      {{"model.depth=3"}, "model\\.depth: unknown key: .*hidden"},
      {{"train.steps=ten"}, "train\\.steps: must be an integer, got the text \"ten\""},
      {{"train.steps=1.5"}, "train\\.steps: must be .*1\\.5"},
      {{"optimizer.learning_rate=fast"}, "optimizer\\.learning_rate: must be .*\"fast\""},
      {{"optimizer.learning_rate=nan"}, "optimizer\\.learning_rate: .*nan"},
      {{"optimizer.learning_rate=-1"}, "optimizer\\.learning_rate: must be >= 0, got -1"},
      {{"data.shuffle=7"}, "data\\.shuffle: must be .*7"},
      {{"train.micro_batch_size=0"}, "train\\.micro_batch_size: must be .*got 0"},
      {{"data.validation_fraction=0.95"}, "data\\.validation_fraction: must be .*0\\.95"},
      {{"run.seed=-1"}, "run\\.seed: must be .*-1"},
      {{"device.threads=0"}, "device\\.threads: must be .*got 0"},
      {{"device.type=tpu"}, "device\\.type: must be one of .*cpu.*\"tpu\""},
      {{"model.type=transformer"}, "model\\.type: must be one of .*mlp.*cnn.*\"transformer\""},
      {{"optimizer.type=adan"}, "optimizer\\.type: must be one of .*adam.*\"adan\""},
      {{"schedule.type=cosin"}, "schedule\\.type: must be one of .*cosine.*\"cosin\""},
      {{"model.hidden=[0]"}, "model\\.hidden.*must be .*0"},
      {{"model.dropout=1"}, "model\\.dropout: must be .*1"},
      {{"model.type=cnn"}, "unknown key|\\(H,W,C\\)"},
      {{"train.loss=logistic"}, "train\\.loss: logistic does not fit data with 3 classes"},
      {{"train.epochs=3"}, "train\\.steps: give either steps or epochs, got steps = 12 and epochs = 3"},
      {{"train.epochs=9223372036854775807", "train.steps=0"},
       "train\\.epochs: must be in .*, got 9223372036854775807"},
      {{"train.epochs=4000000000", "train.steps=0"},
       "train\\.epochs: 4000000000 epochs of .* are more than 4294967295 steps"},
      {{"optimizer.type=muon", "optimizer.adamw=[\"nothing\"]"},
       "optimizer\\.adamw: pattern \"nothing\" fits no parameter"},
      {{"optimizer.type=natural_gradient", "optimizer.rate=0.5", "optimizer.line_search.type=armijo"},
       "optimizer\\.line_search: steps of a rate are as long as that"},
      {{"train.steps=0"}, "train\\.steps: give either steps or epochs, got steps = 0 and epochs = 0"},
      {{"data.last_batch=drop", "train.micro_batches=50"}, "200 samples .*data set of 53"},
      {{"data.validation=x.csv", "data.validation_fraction=0.5"},
       "data\\.validation_fraction: must be 0 when data\\.validation"},
      {{"optimizer.type=gradient_descent"},
       "train\\.micro_batches: gradient_descent takes the whole training set.*14, got 5"},
      {{"train"}, "--set \"train\": must be of the form section\\.key=value or ~section\\.key"},
      {{"=3"}, "--set \"=3\": "},
  };
  for (const BadSetting& bad : table) expect_refusal(kNoLauncher, training(bad.settings), 2, bad.expected);
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("out")))
      << "nothing is made before the configuration is understood";
}

TEST_F(Refusal, VectorsOfAMinimizerThatDoNotFitIntoMemoryExitWith2BeforeAnythingIsMade) {
  if (!kCanLimitMemory) GTEST_SKIP();
  write_file(scratch_.file("run.toml"),
             configuration("train = \"" + scratch_.file("points.csv") + "\"\n",
                           "type = \"mlp\"\nhidden = [700, 700]\n", "type = \"lbfgs\"\nhistory = 1000\n"));
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(
        Job::within_mebibytes(2500, Job::on_workers(workers, training({}))), 2,
        "optimizer\\.type = \"lbfgs\" with 495603 parameters: takes \\d+ bytes of memory: \\d+ are");
  }
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("out")));
}

TEST_F(Refusal, CopiesOfTheStateThatDoNotFitIntoMemoryExitWith2BeforeAnythingIsMade) {
  if (!kCanLimitMemory) GTEST_SKIP();
  write_file(scratch_.file("run.toml"),
             configuration("train = \"" + scratch_.file("points.csv") + "\"\n",
                           "type = \"mlp\"\nhidden = [700, 700]\n", "type = \"lbfgs\"\nhistory = 120\n"));
  const std::vector<std::string> arguments = training({"checkpoint.recovery_point=true"});
  // Once it is there, and has been looked at.
  expect_refusal(Job::within_mebibytes(3500, Job::on_workers(2, arguments)), 2,
                 "checkpoint\\.recovery_point = true: takes \\d+ bytes of memory: \\d+ are");
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("out")));
}

TEST_F(Refusal, BadConfigurationFilesExitWith2AndNameFileAndLine) {
  const auto expect = [&](const std::string& file, const std::string& expected) {
    expect_refusal(kNoLauncher, {"train", file, "--output", scratch_.file("out")}, 2, expected);
  };
  expect(scratch_.file("absent.toml"), "absent\\.toml: .*No such file");
  expect(scratch_.path(), "is a directory|Is a directory");
  const std::string file = scratch_.file("bad.toml");
  write_file(file, "[run]\nseed = = 3\n");
  expect(file, "bad\\.toml:2:\\d+: ");
  write_file(file, "[run]\nseed = 3\nseed = 4\n");
  expect(file, "bad\\.toml:3:\\d+: .*seed");
  write_file(file, replaced(text(), "micro_batches", "micro_batchs"));
  expect(file, "bad\\.toml: train\\.micro_batchs: unknown key: did you mean train\\.micro_batches");
  write_file(file, std::string("\0\x01\xff\xfe garbage", 12));
  expect(file, "bad\\.toml:1:\\d+: ");
  write_file(file, "");
  expect(file, "bad\\.toml: .*(data\\.train|model\\.type|train\\.steps)");
}

TEST_F(Refusal, BadCommandLinesExitWith2AndAreSaidOnceByAnyNumberOfWorkers) {
  const std::string file = scratch_.file("run.toml");
  for (const int workers : {kNoLauncher, 3}) {
    expect_refusal(workers, {}, 2, "subcommand is required");
    expect_refusal(workers, {"trian", file}, 2, "\"trian\": no such command: did you mean train\\?");
    expect_refusal(workers, {"train"}, 2, "config is required");
    expect_refusal(workers, {"train", file, "--reusme"}, 2, "--reusme");
  }
  expect_refusal(kNoLauncher, {"train", file, "--resume", "--overwrite"}, 2, "--resume excludes --overwrite");
  expect_refusal(kNoLauncher, {"eval", file}, 2, "--checkpoint is required");
  expect_refusal(kNoLauncher, {"config"}, 2, "--describe is required");
  expect_refusal(kNoLauncher, {"prepare", file, scratch_.file("x.h5"), "--format", "xml"}, 2, "xml");
}

TEST_F(Refusal, OfAConfigurationIsSaidOnceByAnyNumberOfWorkers) {
  expect_refusal(3, training({"optimizer.learnin_rate=1"}), 2, "did you mean optimizer\\.learning_rate");
  expect_refusal(3, {"train", scratch_.file("absent.toml")}, 2, "absent\\.toml");
  expect_refusal(3, training({"train.steps=0"}), 2, "steps or epochs");
}

TEST_F(Refusal, OfMoreWorkersThanMicroBatchesNamesBothNumbers) {
  expect_refusal(3, training({"train.micro_batches=2"}), 2, "3 workers cannot share 2 micro-batches");
}

TEST_F(Refusal, OfBadDataExitsWith3AndNamesFileAndPlace) {
  const auto expect = [&](int workers, const std::string& name, const std::string& content,
                          const std::string& expected, std::vector<std::string> settings = {}) {
    write_file(scratch_.file(name), content);
    settings.push_back("data.train=" + scratch_.file(name));
    expect_refusal(workers, training(settings), 3, name + expected);
  };
  const std::string points = points_csv(53, 3),
                    digits_file = bytes_of(LOCKSTEP_ROOT "/configs/data/digits.h5");
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(workers, training({"data.train=" + scratch_.file("absent.csv")}), 3,
                   "absent\\.csv: .*No such file");
    expect(workers, "nan.csv", replaced(points, "\n", "\nnan,0,0,1\n"), ".*(row|line) [12].*nan");
  }
  expect(kNoLauncher, "empty.csv", "", ": ");
  expect(kNoLauncher, "header.csv", "a,b,kind\n", ": ");
  expect(kNoLauncher, "text.csv", points + "1,2,three,0\n", ".*(row 54|line 55).*three");
  expect(kNoLauncher, "short.csv", points + "1,2\n", ".*(row 54|line 55)");
  expect(kNoLauncher, "label.csv", points + "1,2,3,7\n",
         ".*(row 54|line 55).*label must be in \\[0, 3\\): got 7", {"data.classes=3"});
  expect(kNoLauncher, "empty.h5", "", ": ");
  expect(kNoLauncher, "garbage.h5", std::string(5000, 'x'), ": ");
  expect(kNoLauncher, "cut.h5", digits_file.substr(0, digits_file.size() / 2), ": ");
  std::string flipped = digits_file;
  flipped[flipped.size() / 2] ^= 1;
  expect(kNoLauncher, "flipped.h5", flipped, ": ");
  expect(kNoLauncher, "images-idx3-ubyte", std::string(100, 'x'), ": .*magic");
  write_file(scratch_.file("other.csv"), "a,b,kind\n1,2,0\n3,4,1\n");
  expect_refusal(kNoLauncher, training({"data.validation=" + scratch_.file("other.csv")}), 3,
                 "other\\.csv: has no column 'c', which .*points\\.csv has");
  expect_refusal(kNoLauncher, training({"data.train=points"}), 3, "points: cannot be read: No such file");
}

// What only one worker finds, as on machines without a shared file system.

TEST_F(Refusal, OfWhatOneWorkerAloneFindsComesFromThatWorkerAndEndsAll) {
  const auto together = [&](const std::string& setting) {
    std::vector<std::string> command = Job::on_workers(1, training({}));
    command.emplace_back(":");
    const std::vector<std::string> second = {"-np", "2", LOCKSTEP_COMMAND};
    command.insert(command.end(), second.begin(), second.end());
    for (const std::string& argument : training({setting})) command.push_back(argument);
    return command;
  };
  expect_refusal(together("data.train=" + scratch_.file("absent.csv")), 3,
                 "^\\[rank 1\\] error: .*absent\\.csv");
  expect_refusal(together("optimizer.learnin_rate=1"), 2, "^\\[rank 1\\] error: .*learnin_rate");
  expect_refusal(
      together("train.steps=13"), 2,
      "^\\[rank 1\\] error: the configuration differs between workers: rank 0 has \"steps = 12\", rank 1 has "
      "\"steps = 13\"");
  expect_refusal(together("model.hidden=[8]"), 2,
                 "^\\[rank 1\\] error: the configuration differs between workers");
}

TEST_F(Refusal, OfEvaluatingWithAnotherConfigurationOnOneWorkerComesFromThatWorker) {
  ASSERT_EQ(run(kNoLauncher, training({})).exit_code, 0);
  const std::vector<std::string> evaluation = {"eval", scratch_.file("run.toml"), "--checkpoint",
                                               checkpoint_of(scratch_.file("out"), 12)};
  std::vector<std::string> command = Job::on_workers(1, evaluation);
  for (const char* word : {":", "-np", "1", LOCKSTEP_COMMAND}) command.emplace_back(word);
  command.insert(command.end(), evaluation.begin(), evaluation.end());
  command.insert(command.end(), {"--set", "train.micro_batch_size=3"});
  expect_refusal(command, 2,
                 "^\\[rank 1\\] error: the configuration differs between workers: rank 0 has "
                 "\"micro_batch_size = 4\", rank 1 has \"micro_batch_size = 3\"");
}

// Output directories.

TEST_F(Refusal, OfAnOutputDirectoryThatCannotBeMadeExitsWith2) {
  write_file(scratch_.file("file"), "");
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(workers, training({}, "file"), 2, "/file: ");
    expect_refusal(workers, training({}, "file/below"), 2, "/file/below: .*Not a directory");
    expect_refusal(workers, {"train", scratch_.file("run.toml"), "--output", "/proc/lockstep"}, 2,
                   "/proc/lockstep: ");
  }
}

TEST_F(Refusal, OfAnOutputDirectoryInUseNamesTheOtherRunAndDoesNotDisturbIt) {
  Job first(Job::on_workers(
      kNoLauncher, training({"train.steps=1000000000", "checkpoint.every=5", "parallel.digest_every=0"})));
  ASSERT_TRUE(first.wait_until([&] { return newest_checkpoint(scratch_.file("out")) > 0; })) << first.err();
  for (const int workers : {kNoLauncher, 2}) {
    std::vector<std::string> overwriting = training({});
    overwriting.emplace_back("--overwrite");
    for (const auto& arguments : {training({}), resuming("out"), overwriting}) {
      expect_refusal(workers, arguments, 2,
                     "/out: in use by another run: host .+, pid " + std::to_string(first.pid()));
    }
  }
  ASSERT_TRUE(first.running());
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait().exit_code, 75);
}

// Checkpoints: of one short run.

class CheckpointRefusal : public Refusal {
 protected:
  CheckpointRefusal() {
    train(kNoLauncher,
          {scratch_.file("run.toml"), "--output", scratch_.file("out"), "--set", "checkpoint.every=6"});
    good_ = bytes_of(checkpoint_of(scratch_.file("out"), 12));
  }
  // Another directory with these checkpoints.
  void directory(const std::string& name, const std::vector<std::string>& files) {
    std::filesystem::create_directory(scratch_.file(name));
    for (size_t i = 0; i < files.size(); ++i) {
      write_file(checkpoint_of(scratch_.file(name), 6 * static_cast<int64_t>(i + 1)), files[i]);
    }
  }
  std::string flipped(size_t at) const {
    std::string bytes = good_;
    bytes[at] = static_cast<char>(bytes[at] ^ 4);
    return bytes;
  }

  std::string good_;
};

TEST_F(CheckpointRefusal, OfADirectoryWithCheckpointsOffersTheChoices) {
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(workers, training({}), 2,
                   "/out: already holds step-000000012\\.h5; .*--resume.*--overwrite.*--output");
  }
  EXPECT_EQ(checkpoints_in(scratch_.file("out")), (std::vector<int64_t>{6, 12}));
  EXPECT_EQ(course_of(scratch_.file("out")).size(), 24u);
  train(2, {scratch_.file("run.toml"), "--output", scratch_.file("out"), "--overwrite"});
  EXPECT_EQ(checkpoints_in(scratch_.file("out")), (std::vector<int64_t>{12}));
}

// Also where no checkpoint is usable: the advice is then what helps.
TEST_F(CheckpointRefusal, OfADirectoryWithBadCheckpointsOffersTheChoicesToo) {
  directory("bad", {"", "damaged"});
  expect_refusal(kNoLauncher, training({}, "bad"), 2,
                 "/bad: already holds step-000000012\\.h5; .*--overwrite");
}

// It is no checkpoint: a new run overwrites those, and leaves alone what it has no use for.
TEST_F(CheckpointRefusal, OfOverwritingNoneIsADirectoryWithACheckpointsName) {
  const std::string directory = checkpoint_of(scratch_.file("out"), 18);
  std::filesystem::create_directory(directory);
  testing::overwrite(directory + "/kept", "kept");
  train(kNoLauncher, {scratch_.file("run.toml"), "--output", scratch_.file("out"), "--overwrite"});
  EXPECT_EQ(checkpoints_in(scratch_.file("out")), (std::vector<int64_t>{12, 18}));
  EXPECT_EQ(testing::bytes_of(directory + "/kept"), "kept");
}

TEST_F(CheckpointRefusal, WithNothingToResumeFromExitsWith4) {
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(workers, resuming("fresh"), 4, "/fresh: --resume: there is no such directory");
    EXPECT_FALSE(std::filesystem::exists(scratch_.file("fresh"))) << "a mistyped name makes no directory";
    std::filesystem::create_directory(scratch_.file("empty"));
    expect_refusal(workers, resuming("empty"), 4, "/empty: --resume: there is no checkpoint");
  }
}

TEST_F(CheckpointRefusal, WithOnlyBadOnesExitsWith4AndDoesNotStartFromScratch) {
  directory("bad", {good_.substr(0, good_.size() / 2), flipped(good_.size() / 2)});
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(
        workers, resuming("bad"), 4,
        "/bad: none of 2 checkpoints is usable: .*step-000000012\\.h5: .*; .*step-000000006\\.h5: ");
  }
  EXPECT_EQ(checkpoints_in(scratch_.file("bad")), (std::vector<int64_t>{6, 12}));
}

TEST_F(CheckpointRefusal, FallsBackToTheNewestGoodOneAndSaysWhatItSkipped) {
  directory("half", {bytes_of(checkpoint_of(scratch_.file("out"), 6)), flipped(700)});
  const Outcome outcome = run(2, resuming("half"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(
      std::regex_search(outcome.err, std::regex("warning: skipped checkpoint .*/step-000000012\\.h5: ")))
      << outcome.err;
  EXPECT_TRUE(std::regex_search(outcome.err,
                                std::regex("resumed from .*/step-000000006\\.h5 on host [^ ]+ at step 6\n")))
      << outcome.err;
  EXPECT_EQ(digest_of(checkpoint_of(scratch_.file("half"), 12)),
            digest_of(checkpoint_of(scratch_.file("out"), 12)));
}

TEST_F(CheckpointRefusal, OfDamagedFilesExitsWith4WhereverTheyAreRead) {
  const std::string cut = scratch_.file("cut.h5"), bit = scratch_.file("bit.h5"),
                    text = scratch_.file("run.toml");
  write_file(cut, good_.substr(0, good_.size() - 1));
  write_file(bit, flipped(good_.size() - 100));
  for (const std::string& file : {cut, bit, text, scratch_.file("absent.h5")}) {
    expect_refusal(kNoLauncher, {"inspect", file}, 4, std::filesystem::path(file).filename().string() + ": ");
  }
  expect_refusal(kNoLauncher, {"inspect", "--digest", bit}, 4, "bit\\.h5: ");
  expect_refusal(kNoLauncher, {"diff", checkpoint_of(scratch_.file("out"), 12), cut}, 4, "cut\\.h5: ");
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(workers, {"eval", text, "--checkpoint", cut}, 4, "cut\\.h5: ");
  }
}

TEST_F(CheckpointRefusal, OfResultsThatCannotBePrintedExitsWith2) {
  const std::string file = checkpoint_of(scratch_.file("out"), 12);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"inspect", file},
        {"inspect", "--digest", file},
        {"config", "--describe"},
        {"eval", scratch_.file("run.toml"), "--checkpoint", file}}) {
    std::vector<std::string> command = {"bash", "-c", "exec \"$@\" >/dev/full", "bash"};
    for (const std::string& word : Job::on_workers(kNoLauncher, arguments)) command.push_back(word);
    expect_refusal(command, 2, "stdout: cannot be written");
  }
}

TEST_F(CheckpointRefusal, OfAnotherModelNamesTheSettingOrEveryTensorThatDoesNotFit) {
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(workers, resuming("out", {"model.hidden=[32,8,4]"}), 4,
                   "step-000000012\\.h5: model\\.hidden = \\[32, 8, 4\\], it was \\[32, 16\\]; a resumed run "
                   "must keep it");
    // Weights of another run need not come from such a configuration.
    const std::vector<std::string> anew = {
        "train",
        scratch_.file("run.toml"),
        "--output",
        scratch_.file("anew"),
        "--set",
        "model.hidden=[32,8,4]",
        "train.initial_weights=" + checkpoint_of(scratch_.file("out"), 12)};
    expect_refusal(workers, anew, 4, "step-000000012\\.h5: .*hidden\\.1\\.weight.*\\(32,8\\).*\\(32,16\\)");
    const Outcome outcome = run(workers, anew);
    for (const char* tensor : {"/parameters/hidden.1.bias", "/parameters/hidden.2.weight",
                               "/parameters/hidden.2.bias", "/parameters/output.weight", "hidden.1.weight"}) {
      EXPECT_NE(outcome.err.find(tensor), std::string::npos) << tensor << " is not in " << outcome.err;
    }
    EXPECT_EQ(outcome.err.find("/parameters/hidden.0.weight"), std::string::npos) << "fits: " << outcome.err;
    expect_refusal(workers,
                   {"eval", scratch_.file("run.toml"), "--set", "model.hidden=[32,8]", "--checkpoint",
                    checkpoint_of(scratch_.file("out"), 12)},
                   4, "hidden\\.1\\.weight");
  }
  EXPECT_EQ(bytes_of(checkpoint_of(scratch_.file("out"), 12)), good_);
}

TEST_F(CheckpointRefusal, OfAResumeThatWouldBeAnotherRunNamesBothValues) {
  expect_refusal(kNoLauncher, resuming("out", {"run.seed=12"}), 4,
                 "rng/seed: the checkpoint has 11, this run has 12");
  expect_refusal(2, resuming("out", {"run.seed=12"}), 4, "rng/seed: the checkpoint has 11, this run has 12");
  expect_refusal(kNoLauncher, resuming("out", {"train.micro_batches=6"}), 4,
                 "train/micro_batches: .* 5, .* 6");
  expect_refusal(kNoLauncher, resuming("out", {"train.micro_batch_size=5"}), 4,
                 "train/micro_batch_size: .* 4, .* 5");
  expect_refusal(kNoLauncher, resuming("out", {"data.shuffle=false"}), 4, "data/shuffle: ");
  expect_refusal(kNoLauncher, resuming("out", {"model.activation=tanh"}), 4,
                 "model\\.activation = \"tanh\", it was \"relu\"; a resumed run must keep it");
  expect_refusal(kNoLauncher, resuming("out", {"optimizer.type=adamw"}), 4,
                 "optimizer\\.type = \"adamw\", it was \"adam\"; a resumed run must keep it");
  expect_refusal(kNoLauncher, resuming("out", {"precision.compute=fp64"}), 4,
                 "precision\\.compute = \"fp64\", it was \"fp32\"; a resumed run must keep it");
  expect_refusal(kNoLauncher, resuming("out", {"average.type=ema"}), 4,
                 "average\\.type = \"ema\", it was \"none\"; a resumed run must keep it");
}

// Layers without parameters leave no trace in the tensors of a checkpoint.
TEST_F(CheckpointRefusal, OfAModelThatGainedOrLostALayerWithoutParameters) {
  const std::string layers = "type = \"sequential\"\n[[model.layers]]\ntype = \"linear\"\nunits = 3\n";
  const std::string more = layers + "[[model.layers]]\ntype = \"activation\"\nfunction = \"tanh\"\n";
  const auto file = [&](const std::string& name, const std::string& model) {
    write_file(scratch_.file(name), replaced(replaced(text(), "[model]\n" + kMlp, ""), "[optimizer]",
                                             "[model]\n" + model + "[optimizer]"));
    return scratch_.file(name);
  };
  const std::string bare = file("bare.toml", layers), grown = file("grown.toml", more);
  const std::string gained = "model\\.layers\\[1\\]\\.function = \"tanh\", it was not set",
                    lost = "model\\.layers\\[1\\]\\.function is not set, it was \"tanh\"";
  for (const auto& [trained, other, change] : {std::tuple(bare, grown, gained), {grown, bare, lost}}) {
    const std::string output = trained + ".out";
    train(kNoLauncher, {trained, "--output", output});
    expect_refusal(
        2, {"train", other, "--output", output, "--resume", "--set", "train.steps=20"}, 4,
        "step-000000012\\.h5: " + change + "; model\\.layers\\[1\\]\\.type .*; a resumed run must keep it");
    expect_refusal(2, {"eval", other, "--checkpoint", checkpoint_of(output, 12)}, 4,
                   "step-000000012\\.h5: " + change + "; an evaluation needs the model that was trained");
  }
}

TEST_F(CheckpointRefusal, IsNotOfOtherSettingsWhichAreSaidWhenTheyComeAndGo) {
  const auto resumed = [&](const std::string& steps, const std::vector<std::string>& settings) {
    std::vector<std::string> arguments = resuming("out", settings);
    arguments.insert(arguments.end(), {"--set", "train.steps=" + steps});
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.err;
  };
  const auto says = [](const std::string& log, const std::string& line) {
    return log.find("changed since the checkpoint: " + line + "\n") != std::string::npos;
  };
  const std::string first =
      resumed("14", {"optimizer.groups=[{pattern=\"*bias\",learning_rate_factor=0.5}]"});
  EXPECT_TRUE(says(first, "optimizer.groups[0].learning_rate_factor = 0.5, it was not set")) << first;
  EXPECT_TRUE(says(first, "train.steps = 14, it was 12")) << first;
  const std::string second = resumed("16", {"schedule.type=cosine"});
  EXPECT_TRUE(says(second, "optimizer.groups[0].pattern is not set, it was \"*bias\"")) << second;
  EXPECT_TRUE(says(second, "schedule.minimum_factor = 0.0, it was not set")) << second;
}

// ---- evaluation

TEST_F(CheckpointRefusal, AnEvaluationSaysOnWhichDataAndWarnsWhenTheSplitIsAnother) {
  const auto evaluated = [&](const std::vector<std::string>& settings, const std::string& step) {
    std::vector<std::string> arguments = {"eval", scratch_.file("run.toml"), "--checkpoint", step};
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    const Outcome outcome = run(2, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome;
  };
  const Outcome whole = evaluated({}, checkpoint_of(scratch_.file("out"), 12));
  EXPECT_NE(whole.out.find("\"data\":\"training\""), std::string::npos) << whole.out;
  EXPECT_EQ(whole.err, "");
  EXPECT_EQ(run(kNoLauncher, training({"data.validation_fraction=0.2"}, "split")).exit_code, 0);
  const std::string split = checkpoint_of(scratch_.file("split"), 12);
  const Outcome same = evaluated({"data.validation_fraction=0.2"}, split);
  EXPECT_NE(same.out.find("\"data\":\"validation\",\"samples\":1"), std::string::npos) << same.out;
  EXPECT_EQ(same.err, "");
  for (const std::string other : {"run.seed=5", "data.validation_fraction=0.3"}) {
    const Outcome outcome = evaluated({"data.validation_fraction=0.2", other}, split);
    EXPECT_NE(outcome.err.find("warning: "), std::string::npos) << other;
    EXPECT_NE(outcome.err.find("may have been trained on"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << "said once: " << outcome.err;
  }
}

}  // namespace
}  // namespace lockstep::testing
