// lockstep landscape of a checkpoint, alone and under mpirun.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "e2e/trained_points.h"
#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/minimize/dense.h"

namespace lockstep::testing {
namespace {

class Slices : public TrainedPoints {
 protected:
  Outcome landscape(int workers, const std::vector<std::string>& more, int step = 12) const {
    return look("landscape", workers, more, step);
  }
  nlohmann::json line_of(int workers, const std::vector<std::string>& more) const {
    const Outcome outcome = landscape(workers, more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out);
  }
  std::vector<double> doubles(const std::string& name, const std::string& path) const {
    const Hdf5File found = Hdf5File::open(file(name), ErrorKind::kData);
    std::vector<double> values(static_cast<size_t>(found.describe(path).shape.elements()));
    found.read(path, DType::kF64, values.data());
    return values;
  }
};

const std::string kEveryStep = "[checkpoint]\nevery = 3\nkeep = 0\n";

TEST_F(Slices, AreTheSameBytesOnAnyNumberOfWorkersAndThreads) {
  train_on(points_csv(53, 3), kMlp, "[precision]\ncompute = \"fp32\"\n" + kEveryStep,
           "validation_fraction = 0.2\n");
  for (const std::string directions : {"random", "eigen", "trajectory"}) {
    SCOPED_TRACE(directions);
    const auto arguments = [&](const std::string& output) {
      return std::vector<std::string>{"--directions", directions, "--points", "5", "--output", file(output)};
    };
    std::vector<std::string> one_thread = arguments("alone.svg");
    one_thread.insert(one_thread.end(), {"--set", "device.threads=1"});
    const Outcome alone = landscape(kNoLauncher, one_thread);
    ASSERT_EQ(alone.exit_code, 0) << alone.err;
    const nlohmann::json line = nlohmann::json::parse(alone.out);
    EXPECT_EQ(line["samples"], 42);
    EXPECT_EQ(line["path"].size(), 4u);
    EXPECT_EQ(line["path"][3]["step"], 12);
    EXPECT_EQ(line["path"][3]["at"], (std::vector<double>{0.0, 0.0}));
    const double explained = line["explained"];
    if (directions == "trajectory") {
      EXPECT_NEAR(explained, line["shares"][0].get<double>() + line["shares"][1].get<double>(), 1e-6);
      EXPECT_GT(explained, 0.8);
      EXPECT_NEAR(line["cosine"], 0.0, 1e-12);
    } else {
      EXPECT_LT(explained, 0.8);
      // The middle of the grid is the checkpoint.
      EXPECT_EQ(doubles("alone.h5", "/landscape/values")[12], line["loss"]);
    }
    const std::vector<int> workers = directions == "random" ? std::vector<int>{2, 3} : std::vector<int>{2};
    for (const int count : workers) {
      const Outcome shared = landscape(count, arguments("shared.svg"));
      ASSERT_EQ(shared.exit_code, 0) << shared.err;
      EXPECT_EQ(shared.out, alone.out);
      for (const std::string name : {".svg", ".h5"})
        EXPECT_EQ(bytes_of(file("shared" + name)), bytes_of(file("alone" + name))) << count << name;
    }
  }
  const std::string svg = bytes_of(file("shared.svg"));
  EXPECT_NE(svg.find("path of steps 3 to 12"), std::string::npos);
  EXPECT_NE(svg.find("<circle"), std::string::npos);
  // Another seed, other data and fewer of them: other numbers.
  const nlohmann::json plain = line_of(2, {"--points", "2"});
  EXPECT_NE(line_of(2, {"--points", "2", "--seed", "5"})["most"], plain["most"]);
  EXPECT_NE(line_of(2, {"--points", "2", "--data", "validation"})["loss"], plain["loss"]);
  EXPECT_EQ(line_of(2, {"--points", "2", "--batches", "3"})["samples"], 12);
}

// Mean squared error of a linear model is L(0) + g'd + d'Hd / 2 for every d, with H = 2/N X'X and g from
// residuals.
TEST_F(Slices, OfLinearRegressionAreTheQuadraticOfTheClosedForm) {
  constexpr int kRows = 30;
  std::string csv = "a,b,c,y\n";
  DenseMatrix x(kRows, 4);
  RealVector y;
  for (int i = 0; i < kRows; ++i) {
    const double row[4] = {i % 7 - 3.0, (i * i) % 11 * 0.5, i % 3 * 4.0, 1.0};
    y.push_back(0.25 * i);
    csv += std::to_string(row[0]) + ',' + std::to_string(row[1]) + ',' + std::to_string(row[2]) + ',' +
           std::to_string(y.back()) + '\n';
    for (int64_t c = 0; c < 4; ++c) x(i, c) = row[c];
  }
  train_on(csv, "type = \"sequential\"\nlayers = [{ type = \"linear\", units = 1 }]\n",
           "[precision]\ncompute = \"fp64\"\n", "classes = -1\n");
  DenseMatrix h(4, 4);
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t r = 0; r < 4; ++r)
      for (int64_t c = 0; c < 4; ++c) h(r, c) += 2.0 / kRows * x(i, r) * x(i, c);
  }
  const SymmetricEigen known = symmetric_eigen(h);
  const nlohmann::json line =
      line_of(2, {"--directions", "eigen", "--points", "7", "--span", "0.5", "--output", file("eigen.svg")});
  for (size_t k = 0; k < 2; ++k)
    EXPECT_NEAR(line["eigenvalues"][k]["value"].get<double>(), known.values[3 - k], 1e-8);
  // Along eigenvectors second differences are the eigenvalues, and mixed ones 0, wherever one is.
  const std::vector<double> values = doubles("eigen.h5", "/landscape/values");
  const auto at = [&](size_t j, size_t i) { return values[7 * j + i]; };
  const double step = 1.0 / 6.0;
  EXPECT_EQ(at(3, 3), line["loss"].get<double>());
  for (size_t j = 1; j < 6; ++j) {
    for (size_t i = 1; i < 6; ++i) {
      EXPECT_NEAR((at(j, i - 1) - 2.0 * at(j, i) + at(j, i + 1)) / (step * step), known.values[3], 1e-6);
      EXPECT_NEAR((at(j - 1, i) - 2.0 * at(j, i) + at(j + 1, i)) / (step * step), known.values[2], 1e-6);
      EXPECT_NEAR(
          (at(j + 1, i + 1) - at(j + 1, i - 1) - at(j - 1, i + 1) + at(j - 1, i - 1)) / (4.0 * step * step),
          0.0, 1e-6);
    }
  }
  // One output has one filter: two random directions of its weights, the bias as it was. The losses are those
  // of residuals at those weights, which a checkpoint tells.
  const State state = read_checkpoint(checkpoint_of(file("out"), 12));
  RealVector theta;
  for (const char* name : {"weight", "bias"}) {
    for (const StateArray& array : state.arrays) {
      if (!array.path.starts_with("/parameters/") || !array.path.ends_with(name)) continue;
      const size_t before = theta.size();
      theta.resize(before + array.bytes.size() / sizeof(double));
      std::memcpy(theta.data() + before, array.bytes.data(), array.bytes.size());
    }
  }
  ASSERT_EQ(theta.size(), 4u);
  const RealVector fitted = multiply(x, theta);
  double loss = 0.0;
  for (size_t i = 0; i < y.size(); ++i) loss += (fitted[i] - y[i]) * (fitted[i] - y[i]) / kRows;
  EXPECT_NEAR(line["loss"].get<double>(), loss, 1e-12 * loss);
  const nlohmann::json random = line_of(kNoLauncher, {"--points", "3"});
  const double size = norm(RealVector{theta[0], theta[1], theta[2]});
  for (const nlohmann::json& length : random["lengths"]) EXPECT_NEAR(length.get<double>(), size, 1e-12);
}

TEST_F(Slices, OfTwoCheckpointsTheLineBetweenThemIsAllOfTheVariance) {
  train_on(points_csv(20, 2), kMlp, "[precision]\ncompute = \"fp32\"\n[checkpoint]\nevery = 6\nkeep = 0\n");
  const nlohmann::json line = line_of(2, {"--directions", "trajectory", "--points", "3"});
  EXPECT_NEAR(line["explained"], 1.0, 1e-12);
  EXPECT_NEAR(line["shares"][0], 1.0, 1e-12);
  EXPECT_EQ(line["second"], "random");
  EXPECT_EQ(line["path"].size(), 2u);
  // A damaged one beside is warned of, and left out.
  write_file(checkpoint_of(file("out"), 7), "no checkpoint");
  const Outcome warned = landscape(2, {"--directions", "trajectory", "--points", "3"});
  EXPECT_EQ(warned.exit_code, 0) << warned.err;
  EXPECT_NE(warned.err.find("left out of the path"), std::string::npos) << warned.err;
  EXPECT_EQ(nlohmann::json::parse(warned.out), line);
  // Without the other one there is no way.
  std::filesystem::remove(checkpoint_of(file("out"), 6));
  const Outcome lone = landscape(2, {"--directions", "trajectory"});
  EXPECT_EQ(lone.exit_code, 2) << lone.err;
  EXPECT_NE(lone.err.find("needs two different checkpoints"), std::string::npos) << lone.err;
  EXPECT_FALSE(line_of(1, {"--points", "2"}).contains("path"));
}

TEST_F(Slices, ArePlanesWithoutTheirPathWhereThereIsNoMemoryForIt) {
  if (!kCanLimitMemory || test_device() != "cpu") GTEST_SKIP();
  train_on(points_csv(20, 2), "type = \"mlp\"\nhidden = [700, 700]\n",
           "[checkpoint]\nevery = 1\nkeep = 0\n[precision]\ncompute = \"fp32\"\n");
  const auto limited = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"landscape", file("run.toml"), "--checkpoint", checkpoint_of(file("out"), 12),
                               "--points", "2", "--set", "device.threads=1"});
    return Job(Job::within_mebibytes(130, Job::on_workers(kNoLauncher, more))).wait();
  };
  const Outcome drawn = limited({});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.err;
  EXPECT_NE(drawn.err.find("warning: " + checkpoint_of(file("out"), 12) + ": the path of 12 checkpoints"),
            std::string::npos)
      << drawn.err;
  const nlohmann::json line = nlohmann::json::parse(drawn.out);
  EXPECT_FALSE(line.contains("path"));
  EXPECT_EQ(line["most"], line_of(kNoLauncher, {"--points", "2"})["most"]);
  for (const std::string directions : {"trajectory", "eigen"}) {
    const Outcome refused = limited({"--directions", directions});
    EXPECT_EQ(refused.exit_code, 2) << refused.err;
    EXPECT_NE(refused.err.find(" bytes of memory: "), std::string::npos) << refused.err;
  }
}

TEST_F(Slices, RefuseWhatTheyCannotDraw) {
  train_on(points_csv(20, 2), kMlp, "[precision]\ncompute = \"fp32\"\n");
  const auto expect_refusal = [](const Outcome& outcome, int code, const std::string& text) {
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  };
  expect_refusal(landscape(2, {"--batches", "1"}), 2, "too few for 2 workers");
  expect_refusal(landscape(2, {"--data", "validation"}), 2, "no validation data");
  expect_refusal(landscape(kNoLauncher, {"--points", "1"}), 2, "--points");
  expect_refusal(landscape(2, {"--span", "0"}), 2, "--span: must be > 0 and finite: 0");
  expect_refusal(landscape(kNoLauncher, {"--span", "nan"}), 2, "--span");
  expect_refusal(landscape(kNoLauncher, {"--directions", "up"}), 2, "--directions");
  expect_refusal(landscape(kNoLauncher, {"--directions", "eigen", "--steps", "1"}), 2, "--steps");
  expect_refusal(landscape(kNoLauncher, {"--function", "beale"}), 2, "--function");
  expect_refusal(landscape(kNoLauncher, {"--output", file("f.png")}), 2, "must end with .svg");
  expect_refusal(run(kNoLauncher, {"landscape", file("run.toml")}), 2, "--checkpoint");
  expect_refusal(run(kNoLauncher, {"landscape", "--checkpoint", checkpoint_of(file("out"), 12)}), 2,
                 "config");
  write_file(file("f.h5"), "my own notes");
  expect_refusal(landscape(2, {"--output", file("f.svg")}), 2, "holds no landscape");
  // Weights of 1e30 and more: the loss is no number, one line says so.
  train(kNoLauncher, {file("run.toml"), "--output", file("out"), "--overwrite", "--set", "optimizer.type=sgd",
                      "optimizer.learning_rate=1e30", "train.steps=1"});
  expect_refusal(landscape(2, {}, 1), 5, "the loss at its weights is");
  // A direction of one number is parallel to every other.
  std::filesystem::remove_all(file("out"));
  train_on("x,y\n1,2\n2,3\n3,5\n4,4\n1,1\n2,2\n3,3\n4,5\n",
           "type = \"sequential\"\nlayers = [{ type = \"linear\", units = 1 }]\n", "", "classes = -1\n");
  expect_refusal(landscape(2, {}), 5, "span no plane");
}

}  // namespace
}  // namespace lockstep::testing
