// What users bring by mistake: columns in another order, one class, files that name other files. One line
// each, in time.
#include <array>
#include <bit>
#include <regex>

#include "e2e/training_run.h"
#include "lockstep/data/dataset.h"

namespace lockstep::testing {
namespace {

class Tables : public ::testing::Test {
 protected:
  Tables() {
    write_file(scratch_.file("train.csv"), points_csv(53, 3));
    write_file(scratch_.file("run.toml"),
               configuration("train = \"" + scratch_.file("train.csv") + "\"\n", kMlp, kAdam));
  }
  // points_csv with its columns a, b, c, kind in the order of `order`, renamed to `header`.
  static std::string reordered(const std::string& csv, const std::vector<size_t>& order,
                               const std::string& header) {
    std::istringstream lines(csv);
    std::string line, text = header + "\n";
    std::getline(lines, line);
    while (std::getline(lines, line)) {
      std::vector<std::string> fields(1);
      for (const char c : line) {
        if (c == ',') {
          fields.emplace_back();
        } else {
          fields.back() += c;
        }
      }
      for (size_t i = 0; i < order.size(); ++i)
        text += fields[order[i]] + (i + 1 < order.size() ? "," : "\n");
    }
    return text;
  }
  Outcome train(const std::vector<std::string>& settings, const std::string& output,
                int workers = kNoLauncher, bool resume = false) const {
    std::vector<std::string> arguments = {"train", scratch_.file("run.toml"), "--output",
                                          scratch_.file(output)};
    if (resume) arguments.emplace_back("--resume");
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    return run(workers, arguments);
  }
  Outcome evaluate(const std::vector<std::string>& settings, const std::string& output) const {
    std::vector<std::string> arguments = {"eval", scratch_.file("run.toml"), "--checkpoint",
                                          checkpoint_of(scratch_.file(output), 12)};
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    return run(kNoLauncher, arguments);
  }
  static void expect_refusal(const Outcome& outcome, const std::string& expected) {
    EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
    EXPECT_TRUE(std::regex_search(outcome.err, std::regex("error: .*" + expected))) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }

  ScratchDirectory scratch_;
};

TEST_F(Tables, ColumnsOfValidationDataAreTakenByName) {
  const std::string points = points_csv(40, 3);
  write_file(scratch_.file("same.csv"), points);
  write_file(scratch_.file("mixed.csv"), reordered(points, {3, 2, 0, 1}, "kind,c,a,b"));
  write_file(scratch_.file("renamed.csv"), reordered(points, {0, 1, 2, 3}, "a,b,z,kind"));
  const std::string same = "data.validation=" + scratch_.file("same.csv"),
                    mixed = "data.validation=" + scratch_.file("mixed.csv");
  ASSERT_EQ(train({same}, "same").exit_code, 0);
  const Outcome other = train({mixed}, "mixed", 2);
  EXPECT_EQ(other.exit_code, 0) << other.err;
  EXPECT_NE(other.err.find("mixed.csv: columns are taken by name, in the order of "), std::string::npos)
      << other.err;
  EXPECT_EQ(metrics_of(scratch_.file("mixed")).back()["validation_loss"],
            metrics_of(scratch_.file("same")).back()["validation_loss"]);
  EXPECT_EQ(evaluate({mixed}, "same").out, evaluate({same}, "same").out);
  expect_refusal(train({"data.validation=" + scratch_.file("renamed.csv")}, "renamed"),
                 "renamed\\.csv: has no column 'c', which .*train\\.csv has");
}

TEST_F(Tables, ColumnsAreKeptInTheCheckpoint) {
  ASSERT_EQ(train({}, "out").exit_code, 0);
  const std::string points = points_csv(53, 3), mixed = "data.train=" + scratch_.file("mixed.csv");
  write_file(scratch_.file("mixed.csv"), reordered(points, {2, 0, 1, 3}, "c,a,b,kind"));
  write_file(scratch_.file("renamed.csv"), reordered(points, {0, 1, 2, 3}, "a,b,c,sort"));
  EXPECT_EQ(evaluate({mixed}, "out").out, evaluate({}, "out").out);
  expect_refusal(evaluate({"data.train=" + scratch_.file("renamed.csv")}, "out"), "'sort'.*'kind'");
  expect_refusal(train({mixed, "train.steps=20"}, "out", kNoLauncher, true),
                 "column 1 is 'c'.*column 1 is 'a'");
  expect_refusal(train({mixed, "train.steps=20"}, "out", 2, true), "column 1 is 'c'.*column 1 is 'a'");
  EXPECT_EQ(train({"train.steps=20"}, "out", 2, true).exit_code, 0);
}

TEST_F(Tables, AnEvaluationWithAnotherNormalizationNamesTheSetting) {
  ASSERT_EQ(train({"data.normalize=standard"}, "out").exit_code, 0);
  const Outcome outcome = evaluate({}, "out");
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  EXPECT_TRUE(
      outcome.err.ends_with("step-000000012.h5: data.normalize = \"none\", it was \"standard\"; an "
                            "evaluation needs the model that was trained\n"))
      << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  write_file(scratch_.file("other.csv"), points_csv(40, 3));
  expect_refusal(evaluate({"data.normalize=standard", "data.train=" + scratch_.file("other.csv")}, "out"),
                 "other\\.csv: its features have other means and deviations");
}

// Both workers see samples of the first block; the last one holds a single sample, which one of them sees.
TEST_F(Tables, DamageThatBothWorkersOrOneMeetEndsBothWithOneLine) {
  constexpr int64_t kRows = 4097, kWidth = 64;
  constexpr float kFirst = 1.2345f, kLast = 2.3456f;
  Dataset data;
  data.sample_shape = {kWidth};
  data.classes = 2;
  for (int64_t i = 0; i < kRows * kWidth; ++i) data.inputs_f32.push_back(static_cast<float>(i % 7) - 3.0f);
  for (int64_t row = 0; row < kRows; ++row) data.labels.push_back(static_cast<int32_t>(row % 2));
  data.inputs_f32.front() = kFirst;
  data.inputs_f32.back() = kLast;
  const std::string file = scratch_.file("large.h5");
  write_dataset(data, file);
  const std::string whole = bytes_of(file);
  const std::vector<std::string> settings = {"data.train=" + file, "train.micro_batch_size=64"};
  ASSERT_EQ(train(settings, "out").exit_code, 0);
  for (const auto& [value, block] : {std::pair(kFirst, "0"), {kLast, "1"}}) {
    const auto pattern = std::bit_cast<std::array<char, sizeof(float)>>(value);
    std::string damaged = whole;
    damaged[damaged.find(std::string_view(pattern.data(), pattern.size()))] ^= 1;
    write_file(file, damaged);
    for (const std::vector<std::string>& command :
         {std::vector<std::string>{"curvature", "--steps", "1", "--probes", "1", "--trace-products", "0"},
          {"landscape", "--points", "2"}}) {
      std::vector<std::string> arguments = {command[0], scratch_.file("run.toml"), "--checkpoint",
                                            checkpoint_of(scratch_.file("out"), 12)};
      for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
      arguments.insert(arguments.end(), command.begin() + 1, command.end());
      expect_refusal(run(2, arguments), "large\\.h5: damaged: the checksum of block " + std::string(block) +
                                            " of /x .*: sample row");
    }
  }
}

TEST_F(Tables, OneClassIsRefusedAndTheTaskIsSaid) {
  write_file(scratch_.file("one.csv"), "a,b,c,kind\n1,2,3,0\n4,5,6,0\n7,8,9,0\n");
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(train({"data.train=" + scratch_.file("one.csv")}, "one", workers),
                   "one\\.csv: target column 'kind': all 3 samples are of class 0");
  }
  const Outcome outcome = train({"data.classes=5"}, "five", 2);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("classification of 5 classes, target column 'kind', loss cross_entropy\n"),
            std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("warning: " + scratch_.file("train.csv") +
                             ": 2 of 5 classes have no training samples: 3, 4\n"),
            std::string::npos)
      << outcome.err;
}

// Wherever the data lie and whoever computes with them: one line a file, not one a worker or an evaluation.
TEST_F(Tables, InputsBeyondHalfPrecisionAreSaid) {
  const std::string csv = scratch_.file("large.csv"), file = scratch_.file("large.h5");
  write_file(csv, points_csv(53, 3) + "1,70000,3,1\n");
  ASSERT_EQ(run(kNoLauncher, {"prepare", csv, file}).exit_code, 0);
  const auto lines = [](const Outcome& outcome, const std::string& name) {
    const std::string line =
        "warning: [^\n]*" + name + ": row 54, column 'b': 70000 is infinite in fp16[^\n]*\n";
    const std::regex said(line);
    return std::distance(std::sregex_iterator(outcome.err.begin(), outcome.err.end(), said),
                         std::sregex_iterator());
  };
  const std::string half = "precision.compute=fp16", evaluates = "train.evaluate_every=2";
  for (const int workers : {kNoLauncher, 2}) {
    const std::string number = std::to_string(workers);
    for (const std::string& data : {csv, file}) {
      const Outcome training = train({"data.train=" + data, half}, "train" + number, workers);
      EXPECT_EQ(lines(training, std::filesystem::path(data).filename()), 1) << training.err;
      std::filesystem::remove_all(scratch_.file("train" + number));
    }
    const std::string output = "fine" + number;
    const Outcome validation = train({"data.validation=" + file, half, evaluates}, output, workers);
    EXPECT_EQ(validation.exit_code, 0) << validation.err;
    EXPECT_EQ(lines(validation, "large.h5"), 1) << validation.err;
    const std::vector<std::string> checkpoint = {scratch_.file("run.toml"), "--checkpoint",
                                                 checkpoint_of(scratch_.file(output), 12), "--set", half};
    std::vector<std::string> evaluation = {"eval"}, prediction = {"predict"};
    evaluation.insert(evaluation.end(), checkpoint.begin(), checkpoint.end());
    prediction.insert(prediction.end(), checkpoint.begin(), checkpoint.end());
    evaluation.insert(evaluation.end(), {"--set", "data.validation=" + file});
    prediction.insert(prediction.end(), {"--data", file, "--output", scratch_.file("p.h5")});
    for (const auto& arguments : {evaluation, prediction}) {
      const Outcome outcome = run(workers, arguments);
      EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
      EXPECT_EQ(lines(outcome, "large.h5"), 1) << outcome.err;
    }
  }
}

TEST_F(Tables, TheLossThatIsSaidIsTheOneThatIsTaken) {
  write_file(scratch_.file("two.csv"), points_csv(53, 2));
  const std::vector<std::string> two = {"data.train=" + scratch_.file("two.csv")};
  const auto said = [&](std::vector<std::string> settings, const std::string& output) {
    settings.push_back(two[0]);
    const Outcome outcome = train(settings, output);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.err;
  };
  EXPECT_NE(said({}, "two").find("target column 'kind', loss cross_entropy\n"), std::string::npos);
  write_file(scratch_.file("run.toml"), configuration("", "type = \"logistic\"\n", kAdam));
  EXPECT_NE(said({}, "one").find("target column 'kind', loss logistic\n"), std::string::npos);
}

// data.target is of the CSV file among the two; the other one knows its own by name.
TEST_F(Tables, ATargetColumnGoesWithAPreparedFileBesideIt) {
  const std::string moved = reordered(points_csv(40, 3), {3, 0, 1, 2}, "kind,a,b,c");
  write_file(scratch_.file("moved.csv"), moved);
  ASSERT_EQ(
      run(kNoLauncher, {"prepare", "--target", "kind", scratch_.file("moved.csv"), scratch_.file("moved.h5")})
          .exit_code,
      0);
  const auto losses = [&](const std::string& training, const std::string& validation,
                          const std::string& output) {
    const Outcome outcome = train({"data.train=" + scratch_.file(training), "data.target=kind",
                                   "data.validation=" + scratch_.file(validation)},
                                  output);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.exit_code == 0 ? metrics_of(scratch_.file(output)).back()["validation_loss"].dump() : "";
  };
  const std::string tables = losses("train.csv", "moved.csv", "tables");
  EXPECT_EQ(losses("train.csv", "moved.h5", "beside"), tables);
  EXPECT_EQ(losses("moved.h5", "train.csv", "behind"), losses("moved.csv", "train.csv", "both"));
  expect_refusal(train({"data.target=c", "data.validation=" + scratch_.file("moved.h5")}, "other"),
                 "moved\\.h5: has no column 'kind'");
  const Outcome alone = train({"data.train=" + scratch_.file("moved.h5"), "data.target=kind"}, "alone");
  EXPECT_EQ(alone.exit_code, 2) << alone.err;
}

TEST_F(Tables, AnIndexOutsideOfTheTableIsRefusedBeforeTheFirstStep) {
  write_file(scratch_.file("run.toml"),
             configuration("train = \"" LOCKSTEP_ROOT "/tests/data/files/tokens_with_an_outlier.h5\"\n",
                           "type = \"sequential\"\nlayers = [{type = \"embedding\", rows = 8, width = 2}, "
                           "{type = \"flatten\"}, {type = \"linear\", units = 3}]\n",
                           kAdam));
  for (const int workers : {kNoLauncher, 2}) {
    expect_refusal(train({"data.validation_fraction=0.5"}, "tokens", workers),
                   "tokens_with_an_outlier\\.h5: row 591: index 8 is outside \\[0, 8\\)");
  }
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("tokens")));
}

TEST_F(Tables, FilesThatNameOtherFilesNeedLeave) {
  if (!shell("/usr/bin/python3 -c 'import h5py'")) GTEST_SKIP() << "h5py is not installed";
  write_file(scratch_.file("make.py"), R"(
import h5py, numpy as np, os, sys
os.chdir(sys.argv[1])
x, y = np.random.default_rng(1).normal(size=(60, 3)).astype('f4'), np.arange(60) % 3
with h5py.File('source.h5', 'w') as file: file['data'] = x
with h5py.File('plain.h5', 'w') as file: file['x'] = x; file['y'] = y
with h5py.File('virtual.h5', 'w') as file:
    layout = h5py.VirtualLayout(shape=x.shape, dtype='f4')
    layout[:] = h5py.VirtualSource('source.h5', 'data', shape=x.shape)
    file.create_virtual_dataset('x', layout)
    file['y'] = y
open('secret.txt', 'w').write('a secret of 36 bytes, seen by nobody')
with h5py.File('spy.h5', 'w') as file:
    file.create_dataset('x', (12, 3), 'u1', external=[('secret.txt', 0, 36)])
    file['y'] = np.arange(12) % 3
)");
  ASSERT_TRUE(shell("/usr/bin/python3 " + scratch_.file("make.py") + " " + scratch_.path()));
  const auto prepare = [&](const std::string& name, bool follow) {
    std::vector<std::string> arguments = {"prepare", scratch_.file(name), scratch_.file("out-" + name)};
    if (follow) arguments.emplace_back("--follow");
    return run(kNoLauncher, arguments);
  };
  expect_refusal(prepare("spy.h5", false), "spy\\.h5: /x: .*another file, secret\\.txt: .*--follow");
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("out-spy.h5")));
  EXPECT_EQ(prepare("spy.h5", true).exit_code, 0);
  const std::string plain = "data.train=" + scratch_.file("plain.h5"),
                    other = "data.train=" + scratch_.file("virtual.h5");
  expect_refusal(train({other}, "closed"),
                 "virtual\\.h5: /x: .*another file, source\\.h5: data\\.follow = true");
  const Outcome followed = train({other, "data.follow=true"}, "followed", 2);
  EXPECT_EQ(followed.exit_code, 0) << followed.err;
  ASSERT_EQ(train({plain}, "plain").exit_code, 0);
  EXPECT_EQ(digest_of(checkpoint_of(scratch_.file("followed"), 12)),
            digest_of(checkpoint_of(scratch_.file("plain"), 12)));
  EXPECT_EQ(evaluate({other, "data.follow=true"}, "followed").exit_code, 0);
}

}  // namespace
}  // namespace lockstep::testing
