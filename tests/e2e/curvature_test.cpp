// lockstep curvature, alone and under mpirun.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <tuple>

#include "e2e/trained_points.h"
#include "lockstep/minimize/dense.h"

namespace lockstep::testing {
namespace {

class Curvature : public TrainedPoints {
 protected:
  Outcome curvature(int workers, const std::vector<std::string>& more) const {
    return look("curvature", workers, more);
  }
};

TEST_F(Curvature, IsTheSameBytesOnAnyNumberOfWorkersAndThreads) {
  train_on(points_csv(53, 3), kMlp, "[precision]\ncompute = \"fp32\"\n", "validation_fraction = 0.2\n");
  const std::vector<std::string> small = {"--steps", "6", "--probes", "2", "--by-parameter"};
  const auto with_output = [&](const std::string& output, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = small;
    all.insert(all.end(), {"--output", file(output)});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const Outcome alone = curvature(kNoLauncher, with_output("alone", {"--set", "device.threads=1"}));
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  const nlohmann::json line = nlohmann::json::parse(alone.out);
  EXPECT_EQ(line["samples"], 42);
  EXPECT_EQ(line["sharpness"].size(), 6u);
  EXPECT_GT(line["noise_scale"].get<double>(), 0.0);
  EXPECT_EQ(line["top"].size(), 6u);
  for (const int workers : {2, 3}) {
    const Outcome shared = curvature(workers, with_output("shared"));
    ASSERT_EQ(shared.exit_code, 0) << shared.err;
    EXPECT_EQ(shared.out, alone.out);
    for (const char* name : {"/curvature.svg", "/curvature.h5"})
      EXPECT_EQ(bytes_of(file("shared") + name), bytes_of(file("alone") + name)) << workers << name;
  }
  // A subset of samples, the other data, the other matrix: other numbers.
  for (const std::vector<std::string>& other : {std::vector<std::string>{"--samples", "9"},
                                                {"--data", "validation"},
                                                {"--operator", "gauss_newton"}}) {
    std::vector<std::string> all = small;
    all.insert(all.end(), other.begin(), other.end());
    const Outcome found = curvature(2, all);
    ASSERT_EQ(found.exit_code, 0) << found.err;
    EXPECT_NE(nlohmann::json::parse(found.out)["largest"], line["largest"]) << other[0];
  }
}

// Mean squared error of a linear model: H = 2/N X'X with a column of ones for the bias, whatever the weights.
TEST_F(Curvature, OfLinearRegressionIsTheClosedForm) {
  std::string csv = "a,b,c,y\n";
  DenseMatrix h(4, 4);
  constexpr int kRows = 30;
  for (int i = 0; i < kRows; ++i) {
    const double x[4] = {i % 7 - 3.0, (i * i) % 11 * 0.5, i % 3 * 4.0, 1.0};
    csv += std::to_string(x[0]) + ',' + std::to_string(x[1]) + ',' + std::to_string(x[2]) + ',' +
           std::to_string(0.25 * i) + '\n';
    for (int64_t r = 0; r < 4; ++r)
      for (int64_t c = 0; c < 4; ++c) h(r, c) += 2.0 / kRows * x[r] * x[c];
  }
  train_on(csv, "type = \"sequential\"\nlayers = [{ type = \"linear\", units = 1 }]\n",
           "[precision]\ncompute = \"fp64\"\n", "classes = -1\n");
  const SymmetricEigen known = symmetric_eigen(h);
  for (const char* matrix : {"hessian", "gauss_newton", "fisher"}) {
    const Outcome outcome = curvature(2, {"--operator", matrix});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const nlohmann::json line = nlohmann::json::parse(outcome.out);
    EXPECT_EQ(line["parameters"], 4);
    EXPECT_EQ(line["precision"], "fp64");
    for (size_t i = 0; i < 4; ++i)
      EXPECT_NEAR(line["bottom"][i]["value"].get<double>(), known.values[i], 1e-8) << matrix;
    EXPECT_NEAR(line["condition"].get<double>(), known.values[3] / known.values[0], 1e-6);
    EXPECT_NEAR(line["trace"]["value"].get<double>(), h(0, 0) + h(1, 1) + h(2, 2) + h(3, 3), 1e-8);
  }
}

TEST_F(Curvature, RoundingInFp32IsNoNegativeCurvature) {
  // Three columns that are one.
  std::string csv = "a,b,c,y\n";
  for (int i = 0; i < 30; ++i) {
    const std::string x = std::to_string((i * i) % 11 * 0.37 - 1.9);
    csv += x + ',' + x + ',' + x + ',' + std::to_string(i % 3) + '\n';
  }
  for (const char* width : {"4", "24"}) {
    train_on(csv, std::string("type = \"mlp\"\nhidden = [") + width + "]\n",
             "[precision]\ncompute = \"fp32\"\n");
    const Outcome outcome = curvature(2, {"--operator", "gauss_newton", "--steps", "100"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const nlohmann::json line = nlohmann::json::parse(outcome.out);
    EXPECT_EQ(line["condition"], "singular") << outcome.out;
    EXPECT_EQ(line["negative_share"], 0.0) << outcome.out;
    std::filesystem::remove_all(file("out"));
  }
}

TEST_F(Curvature, SixteenBitRunsWithBatchNormAreLookedAtInTheirMasters) {
  write_file(file("run.toml"), configuration(digits(), kCnn, kAdam) + "[precision]\ncompute = \"bf16\"\n");
  train(kNoLauncher, {file("run.toml"), "--output", file("out")});
  const std::vector<std::string> few = {"--steps", "3", "--probes", "1", "--samples", "8"};
  const Outcome alone = curvature(kNoLauncher, few), shared = curvature(2, few);
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_EQ(shared.out, alone.out);
  EXPECT_EQ(nlohmann::json::parse(alone.out)["precision"], "fp32");
}

TEST_F(Curvature, RefusesWhatItCannotLookAt) {
  train_on(points_csv(20, 2), kMlp, "[precision]\ncompute = \"fp32\"\n");
  const auto expect_refusal = [](const Outcome& outcome, int code, const std::string& text) {
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  };
  expect_refusal(curvature(2, {"--data", "validation"}), 2, "no validation data");
  expect_refusal(curvature(2, {"--samples", "4"}), 2, "too few for 2 workers");
  expect_refusal(curvature(kNoLauncher, {"--steps", "0"}), 2, "--steps");
  write_file(file("taken"), "");
  expect_refusal(curvature(kNoLauncher, {"--output", file("taken")}), 2, "--output");
  std::filesystem::create_directory(file("mine"));
  write_file(file("mine/curvature.svg"), "my own notes");
  expect_refusal(curvature(2, {"--output", file("mine")}), 2, "is no SVG");
  // Weights of 1e30 and more: the loss is no number, one line says so.
  train(kNoLauncher, {file("run.toml"), "--output", file("out"), "--overwrite", "--set", "optimizer.type=sgd",
                      "optimizer.learning_rate=1e30", "train.steps=1"});
  const Outcome diverged =
      run(2, {"curvature", file("run.toml"), "--checkpoint", checkpoint_of(file("out"), 1)});
  expect_refusal(diverged, 5, "the loss at its weights is");
}

TEST_F(Curvature, VectorsThatDoNotFitIntoMemoryAreAnErrorBeforeTheFirstProduct) {
  if (!kCanLimitMemory) GTEST_SKIP();
  train_on(points_csv(20, 2), "type = \"mlp\"\nhidden = [700, 700]\n");
  const std::tuple<int, std::string, std::string> too_many[] = {
      {kNoLauncher, "--steps 2000", "takes 7918432000 bytes"},
      {2, "--steps 2000", "takes 7918432000 bytes"},
      {2, "a third of --trace-products 3000", "takes 3959216000 bytes"}};
  for (const auto& [workers, option, takes] : too_many) {
    const size_t value = option.rfind(' '), name = option.find("--");
    Job job(Job::within_mebibytes(
        2500, Job::on_workers(workers,
                              {"curvature", file("run.toml"), "--checkpoint", checkpoint_of(file("out"), 12),
                               option.substr(name, value - name), option.substr(value + 1)})));
    const Outcome outcome = job.wait(60.0);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    const std::string line = "error: " + checkpoint_of(file("out"), 12) + ": " + option +
                             ", a vector of 494902 numbers each: " + takes + " of memory: ";
    EXPECT_NE(outcome.err.find(line), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find(line, outcome.err.find(line) + 1), std::string::npos)
        << "once: " << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
}

}  // namespace
}  // namespace lockstep::testing
