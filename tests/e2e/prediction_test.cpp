// lockstep predict and eval --confusion, alone and under mpirun.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "e2e/training_run.h"
#include "lockstep/data/dataset.h"
#include "lockstep/hdf5/file.h"

namespace lockstep::testing {
namespace {

class Prediction : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file(file("points.csv"), points_csv(53, 3));
    write_file(file("run.toml"),
               configuration("train = \"" + file("points.csv") + "\"\nvalidation_fraction = 0.3\n",
                             "type = \"mlp\"\nhidden = [8]\n", kAdam));
    train(kNoLauncher, {file("run.toml"), "--output", file("out")});
  }
  std::string file(const std::string& name) const { return scratch_.file(name); }
  Outcome predict(int workers, const std::string& data, const std::string& output) const {
    return run(workers, {"predict", file("run.toml"), "--checkpoint", checkpoint_of(file("out"), 12),
                         "--data", file(data), "--output", file(output)});
  }
  std::vector<int32_t> classes_in(const std::string& output) const {
    const Hdf5File hdf5 = Hdf5File::open(file(output), ErrorKind::kData);
    std::vector<int32_t> classes(static_cast<size_t>(hdf5.describe("/class").shape.elements()));
    hdf5.read("/class", DType::kI32, classes.data());
    return classes;
  }

  ScratchDirectory scratch_;
};

TEST_F(Prediction, IsTheSameBytesOnAnyNumberOfWorkersAndNeedsNoTargets) {
  const Outcome first = predict(kNoLauncher, "points.csv", "alone.h5");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const std::string alone = bytes_of(file("alone.h5"));
  for (const int workers : {2, 3}) {
    ASSERT_EQ(predict(workers, "points.csv", "shared.h5").exit_code, 0);
    EXPECT_EQ(bytes_of(file("shared.h5")), alone) << workers;
  }
  // Columns in another order, and no target.
  std::istringstream lines(points_csv(53, 3));
  std::string text;
  for (std::string a, b, c, kind; std::getline(lines, a, ',') && std::getline(lines, b, ',') &&
                                  std::getline(lines, c, ',') && std::getline(lines, kind);) {
    text += c + "," + a + "," + b + "\n";
  }
  write_file(file("bare.csv"), text);
  const Outcome bare = predict(2, "bare.csv", "bare.h5");
  ASSERT_EQ(bare.exit_code, 0) << bare.err;
  EXPECT_EQ(classes_in("bare.h5"), classes_in("alone.h5"));
  EXPECT_EQ(classes_in("alone.h5").size(), 53u);
}

TEST_F(Prediction, AgreesWithTheEvaluation) {
  // All samples, evaluated as they are predicted.
  write_file(file("all.toml"),
             replaced(bytes_of(file("run.toml")), "validation_fraction = 0.3", "validation_fraction = 0.0"));
  const Outcome evaluated =
      run(2, {"eval", file("all.toml"), "--checkpoint", checkpoint_of(file("out"), 12), "--confusion"});
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.err;
  const nlohmann::json line = nlohmann::json::parse(evaluated.out);
  ASSERT_EQ(predict(kNoLauncher, "points.csv", "p.h5").exit_code, 0);
  const std::vector<int32_t> classes = classes_in("p.h5");
  std::vector<std::vector<int64_t>> confusion(3, std::vector<int64_t>(3, 0));
  int64_t right = 0;
  for (size_t row = 0; row < classes.size(); ++row) {
    ++confusion[row % 3][static_cast<size_t>(classes[row])];
    right += static_cast<size_t>(classes[row]) == row % 3 ? 1 : 0;
  }
  EXPECT_EQ(line["confusion"].get<std::vector<std::vector<int64_t>>>(), confusion);
  EXPECT_NEAR(line["accuracy"].get<double>(), static_cast<double>(right) / 53.0, 1e-12);
  EXPECT_FALSE(line.contains("top5_accuracy"));
}

// Whatever stands in the file of the training by now: the checkpoint has its means and deviations.
TEST_F(Prediction, StandardizesAsTheTrainingDid) {
  const std::string normalized = "data.normalize=standard", data = "data.train=" + file("moved.csv");
  train(kNoLauncher, {file("run.toml"), "--output", file("norm"), "--set", normalized});
  std::istringstream lines(points_csv(53, 3));
  std::string moved, shifted;
  for (std::string a, b, c, kind; std::getline(lines, a, ',') && std::getline(lines, b, ',') &&
                                  std::getline(lines, c, ',') && std::getline(lines, kind);) {
    moved += kind + "," + c + "," + a + "," + b + "\n";
    shifted +=
        (shifted.empty() ? a : std::to_string(std::stod(a) + 5.0)) + "," + b + "," + c + "," + kind + "\n";
  }
  write_file(file("moved.csv"), moved);
  write_file(file("shifted.csv"), shifted);
  const auto predicted = [&](const std::vector<std::string>& sets, const std::string& output) {
    std::vector<std::string> arguments = {
        "predict", file("run.toml"),   "--checkpoint", checkpoint_of(file("norm"), 12),
        "--data",  file("points.csv"), "--output",     file(output),
        "--set",   normalized};
    arguments.insert(arguments.end(), sets.begin(), sets.end());
    return run(2, arguments);
  };
  const Outcome plain = predicted({}, "plain.h5");
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  const Outcome reordered = predicted({data, "data.target=kind"}, "reordered.h5");
  ASSERT_EQ(reordered.exit_code, 0) << reordered.err;
  EXPECT_EQ(classes_in("reordered.h5"), classes_in("plain.h5"));
  const std::string alone = bytes_of(file("plain.h5"));
  for (const std::string name : {"shifted.csv", "gone.csv"}) {
    const Outcome other = predicted({"data.train=" + file(name)}, "other.h5");
    ASSERT_EQ(other.exit_code, 0) << other.err;
    EXPECT_EQ(bytes_of(file("other.h5")), alone) << name;
  }
  // An evaluation, which looks at the file, refuses it.
  const Outcome evaluated = run(2, {"eval", file("run.toml"), "--checkpoint", checkpoint_of(file("norm"), 12),
                                    "--set", normalized, "data.train=" + file("shifted.csv")});
  EXPECT_EQ(evaluated.exit_code, 3);
  EXPECT_NE(evaluated.err.find("shifted.csv: its features have other means"), std::string::npos)
      << evaluated.err;
}

TEST_F(Prediction, NamesTheClasses) {
  Dataset data = read_dataset({.path = file("points.csv")});
  data.class_names = {"ash", "birch", "cherry"};
  write_dataset(data, file("named.h5"));
  train(kNoLauncher,
        {file("run.toml"), "--output", file("named"), "--set", "data.train=" + file("named.h5")});
  const Outcome outcome = run(
      kNoLauncher, {"predict", file("run.toml"), "--checkpoint", checkpoint_of(file("named"), 12), "--data",
                    file("points.csv"), "--output", file("p.h5"), "--set", "data.train=gone.h5"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Hdf5File hdf5 = Hdf5File::open(file("p.h5"), ErrorKind::kData);
  EXPECT_EQ(hdf5.read_attribute_text("/class", "class_names"), "ash\nbirch\ncherry");
}

// A mean of weights has no statistics of batch norm: these come from the samples.
TEST_F(Prediction, NeedsTheTrainingFileForStatisticsAlone) {
  write_file(file("norm.toml"), configuration("train = \"" + file("points.csv") + "\"\n",
                                              "type = \"sequential\"\n[[model.layers]]\ntype = \"linear\"\n"
                                              "units = 5\n[[model.layers]]\ntype = \"batch_norm\"\n"
                                              "[[model.layers]]\ntype = \"linear\"\nunits = 3\n",
                                              kAdam + "[average]\ntype = \"swa\"\n"));
  train(kNoLauncher, {file("norm.toml"), "--output", file("mean")});
  const auto predicted = [&](const std::string& data, const std::string& weights) {
    return run(kNoLauncher, {"predict", file("norm.toml"), "--checkpoint", checkpoint_of(file("mean"), 12),
                             "--data", file("points.csv"), "--output", file("p.h5"), "--weights", weights,
                             "--set", "data.train=" + file(data)});
  };
  EXPECT_EQ(predicted("points.csv", "averaged").exit_code, 0);
  // Whatever its name tells of its format, and whatever is there by now.
  write_file(file("other"), std::string("\x93NUMPY\0", 7));
  for (const char* data : {"gone.csv", "gone", "other"})
    EXPECT_EQ(predicted(data, "trained").exit_code, 0) << data;
  const Outcome mean = predicted("gone.csv", "averaged");
  EXPECT_EQ(mean.exit_code, 3);
  EXPECT_NE(mean.err.find("gone.csv"), std::string::npos) << mean.err;
}

TEST_F(Prediction, InitialWeightsKeepTheOrderOfColumns) {
  std::istringstream lines(points_csv(53, 3));
  std::string moved;
  for (std::string a, b, c, kind; std::getline(lines, a, ',') && std::getline(lines, b, ',') &&
                                  std::getline(lines, c, ',') && std::getline(lines, kind);) {
    moved += c + "," + a + "," + b + "," + kind + "\n";
  }
  write_file(file("moved.csv"), moved);
  const Outcome outcome =
      run(2, {"train", file("run.toml"), "--output", file("fine"), "--set", "data.train=" + file("moved.csv"),
              "train.initial_weights=" + checkpoint_of(file("out"), 12)});
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_NE(outcome.err.find("weights and columns belong together"), std::string::npos) << outcome.err;
}

TEST_F(Prediction, RefusesSamplesThatTheModelDoesNotTake) {
  write_file(file("fewer.csv"), "a,b\n1,2\n");
  const Outcome fewer = predict(2, "fewer.csv", "p.h5");
  EXPECT_EQ(fewer.exit_code, 3);
  EXPECT_NE(fewer.err.find("fewer.csv: has no column 'c'"), std::string::npos) << fewer.err;
  EXPECT_FALSE(std::filesystem::exists(file("p.h5")));
  const Outcome nowhere = predict(kNoLauncher, "points.csv", "no/p.h5");
  EXPECT_EQ(nowhere.exit_code, 2);
  EXPECT_NE(nowhere.err.find("no/p.h5"), std::string::npos) << nowhere.err;
}

// Two tokens at two positions: logits of a class head, of which there are as many as of one for each target.
// Megatron's files do not say how many tokens there are.
TEST_F(Prediction, OfTextOfTwoTokensAgreesWithTheEvaluation) {
  std::string tokens, index("MMIDIDX\0\0", 9);
  for (uint32_t i = 0; i < 2001; ++i) tokens += {static_cast<char>(i * 2'654'435'761u >> 31), '\0'};
  const auto put = [&index](auto value) {
    index.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  put(uint64_t{1});
  put(uint8_t{8});  // uint16
  put(uint64_t{1});
  put(uint64_t{2});
  put(int32_t{2001});
  put(int64_t{0});
  put(int64_t{0});
  put(int64_t{1});
  write_file(file("text.bin"), tokens);
  write_file(file("text.idx"), index);
  write_file(file("gpt.toml"),
             "[data]\nformat = \"tokens\"\ncontext = 2\nclasses = 2\ntrain = \"" + file("text") + "\"\n" + R"(
[model]
type = "gpt"
layers = 1
width = 8
heads = 2
[train]
steps = 5
micro_batches = 1
micro_batch_size = 4
[optimizer]
type = "adamw"
learning_rate = 0.01
)");
  train(kNoLauncher, {file("gpt.toml"), "--output", file("gpt")});
  const std::string checkpoint = checkpoint_of(file("gpt"), 5);
  const Outcome evaluated =
      run(kNoLauncher, {"eval", file("gpt.toml"), "--checkpoint", checkpoint, "--confusion"});
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.err;
  const nlohmann::json line = nlohmann::json::parse(evaluated.out);
  const Outcome predicted = run(2, {"predict", file("gpt.toml"), "--checkpoint", checkpoint, "--data",
                                    file("text"), "--output", file("text.h5")});
  ASSERT_EQ(predicted.exit_code, 0) << predicted.err;
  const std::vector<int32_t> classes = classes_in("text.h5");
  ASSERT_EQ(classes.size(), 2000u);
  std::vector<std::vector<int64_t>> confusion(2, std::vector<int64_t>(2, 0));
  for (size_t i = 0; i < classes.size(); ++i)
    ++confusion[static_cast<size_t>(tokens[2 * i + 2])][static_cast<size_t>(classes[i])];
  EXPECT_EQ(line["confusion"].get<std::vector<std::vector<int64_t>>>(), confusion);
  EXPECT_NEAR(line["accuracy"].get<double>(), static_cast<double>(confusion[0][0] + confusion[1][1]) / 2000.0,
              1e-12);
}

}  // namespace
}  // namespace lockstep::testing
