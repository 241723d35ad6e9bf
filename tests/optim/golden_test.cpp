// Optimizers follow the paths that PyTorch's took, and those of the papers' equations in NumPy; goldens/ is
// written by make_goldens.py and make_matrix_goldens.py.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "optim/problems.h"

namespace lockstep::testing {
namespace {

nlohmann::json read_golden(const std::string& name) {
  const std::filesystem::path path = std::filesystem::path(LOCKSTEP_OPTIM_GOLDENS) / (name + ".json");
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return nlohmann::json::parse(file);
}

Problem golden_problem(const std::string& name) {
  const nlohmann::json problem = read_golden("problems").at(name);
  const Vector start = problem.at("start");
  if (name == "quadratic")
    return {name, start, quadratic_gradient(problem.at("matrix"), problem.at("linear"))};
  return {name, start, logistic_gradient(problem.at("features"), problem.at("labels"), problem.at("l2"))};
}

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, AgreesWithTheOtherProgram) {
  const nlohmann::json golden = read_golden(GetParam());
  ASSERT_GE(golden.at("cases").size(), 2u);
  for (const nlohmann::json& entry : golden.at("cases")) {
    const std::string toml = entry.at("optimizer");
    Problem problem = golden_problem(entry.at("problem"));
    problem.shape = Shape(std::span<const int64_t>(entry.at("shape").get<std::vector<int64_t>>()));
    const double rate = entry.at("learning_rate");
    const std::vector<Vector> path = walk<double>(
        *optimizer_from(toml), problem, [rate](int64_t) { return rate; }, 100);
    ASSERT_EQ(entry.at("path").back().at("step"), 100);
    for (const nlohmann::json& point : entry.at("path")) {
      const size_t step = point.at("step");
      const Vector expected = point.at("parameters");
      ASSERT_EQ(expected.size(), path[step].size());
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(path[step][i], expected[i], 1e-10)
            << toml << "\n"
            << problem.name << " step " << step << " element " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Optimizers, Golden,
                         ::testing::Values("sgd", "momentum_classical", "nesterov_classical", "adam", "adamw",
                                           "amsgrad", "nadam", "adagrad", "rmsprop", "adafactor", "shampoo",
                                           "soap"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace lockstep::testing
