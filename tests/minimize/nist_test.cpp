// Levenberg-Marquardt on NIST's nonlinear regression sets: 27 models, two starts each, certified parameters.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <numbers>
#include <sstream>

#include "lockstep/minimize/minimizer.h"
#include "problems.h"

namespace lockstep {
namespace {

struct DataSet {
  std::string name;
  RealVector starts[2], certified;
  double squares = 0.0;
  std::vector<RealVector> rows;  // response, predictors
};

std::vector<DataSet> read_sets() {
  std::ifstream file(LOCKSTEP_MINIMIZE_DATA "/nist_strd.txt");
  std::vector<DataSet> sets;
  std::string line;
  while (std::getline(file, line)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream head(line);
    DataSet set;
    std::string word;
    size_t parameters = 0, rows = 0, columns = 0;
    head >> word >> set.name >> parameters >> rows >> columns;
    for (size_t i = 0; i < parameters; ++i) {
      double first = 0.0, second = 0.0, value = 0.0;
      file >> first >> second >> value;
      set.starts[0].push_back(first);
      set.starts[1].push_back(second);
      set.certified.push_back(value);
    }
    file >> set.squares;
    for (size_t i = 0; i < rows; ++i) {
      set.rows.emplace_back(columns);
      for (double& value : set.rows.back()) file >> value;
    }
    std::getline(file, line);
    sets.push_back(std::move(set));
  }
  return sets;
}

using Model = std::function<Jet(const std::vector<Jet>& b, const RealVector& x)>;

Jet rational(const std::vector<Jet>& b, double x, size_t numerator) {
  Jet above = b[0], below = 1.0;
  double power = 1.0;
  for (size_t i = 1; i < numerator; ++i) above = above + (power *= x) * b[i];
  power = 1.0;
  for (size_t i = numerator; i < b.size(); ++i) below = below + (power *= x) * b[i];
  return above / below;
}

// The models, as NIST states them; x[0] is the first predictor.
Model model_of(const std::string& name) {
  using B = std::vector<Jet>;
  using X = RealVector;
  const auto any_of = [&name](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (name == "Bennett5") return [](const B& b, const X& x) { return b[0] * pow(b[1] + x[0], -1.0 / b[2]); };
  if (any_of({"BoxBOD", "Misra1a"}))
    return [](const B& b, const X& x) { return b[0] * (1.0 - exp(-b[1] * x[0])); };
  if (any_of({"Chwirut1", "Chwirut2"})) {
    return [](const B& b, const X& x) { return exp(-b[0] * x[0]) / (b[1] + b[2] * x[0]); };
  }
  if (name == "DanWood") return [](const B& b, const X& x) { return b[0] * exp(b[1] * std::log(x[0])); };
  if (name == "ENSO") {
    return [](const B& b, const X& x) {
      const double turn = 2.0 * std::numbers::pi * x[0];
      return b[0] + b[1] * std::cos(turn / 12.0) + b[2] * std::sin(turn / 12.0) + b[4] * cos(turn / b[3]) +
             b[5] * sin(turn / b[3]) + b[7] * cos(turn / b[6]) + b[8] * sin(turn / b[6]);
    };
  }
  if (name == "Eckerle4") {
    return [](const B& b, const X& x) { return b[0] / b[1] * exp(-0.5 * square((x[0] - b[2]) / b[1])); };
  }
  if (any_of({"Gauss1", "Gauss2", "Gauss3"})) {
    return [](const B& b, const X& x) {
      return b[0] * exp(-b[1] * x[0]) + b[2] * exp(-square(x[0] - b[3]) / square(b[4])) +
             b[5] * exp(-square(x[0] - b[6]) / square(b[7]));
    };
  }
  if (any_of({"Hahn1", "Thurber"})) return [](const B& b, const X& x) { return rational(b, x[0], 4); };
  if (name == "Kirby2") return [](const B& b, const X& x) { return rational(b, x[0], 3); };
  if (any_of({"Lanczos1", "Lanczos2", "Lanczos3"})) {
    return [](const B& b, const X& x) {
      return b[0] * exp(-b[1] * x[0]) + b[2] * exp(-b[3] * x[0]) + b[4] * exp(-b[5] * x[0]);
    };
  }
  if (name == "MGH09") {
    return [](const B& b, const X& x) {
      const double square_of = x[0] * x[0];
      return b[0] * (square_of + x[0] * b[1]) / (square_of + x[0] * b[2] + b[3]);
    };
  }
  if (name == "MGH10") return [](const B& b, const X& x) { return b[0] * exp(b[1] / (x[0] + b[2])); };
  if (name == "MGH17") {
    return [](const B& b, const X& x) { return b[0] + b[1] * exp(-x[0] * b[3]) + b[2] * exp(-x[0] * b[4]); };
  }
  if (name == "Misra1b") {
    return [](const B& b, const X& x) { return b[0] * (1.0 - reciprocal(square(1.0 + b[1] * x[0] / 2.0))); };
  }
  if (name == "Misra1c") {
    return [](const B& b, const X& x) { return b[0] * (1.0 - reciprocal(sqrt(1.0 + 2.0 * b[1] * x[0]))); };
  }
  if (name == "Misra1d") {
    return [](const B& b, const X& x) { return b[0] * b[1] * x[0] / (1.0 + b[1] * x[0]); };
  }
  if (name == "Nelson") return [](const B& b, const X& x) { return b[0] - b[1] * x[0] * exp(-b[2] * x[1]); };
  if (name == "Rat42") return [](const B& b, const X& x) { return b[0] / (1.0 + exp(b[1] - b[2] * x[0])); };
  if (name == "Rat43") {
    return [](const B& b, const X& x) { return b[0] / pow(1.0 + exp(b[1] - b[2] * x[0]), 1.0 / b[3]); };
  }
  if (name == "Roszman1") {
    return [](const B& b, const X& x) {
      return b[0] - b[1] * x[0] - atan(b[2] / (x[0] - b[3])) / std::numbers::pi;
    };
  }
  return {};
}

// The least number of digits that a parameter shares with its certified value, at most the 11 that are
// certified.
double digits(const RealVector& x, const RealVector& certified) {
  double least = 11.0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::fabs(x[i] - certified[i]) / std::fabs(certified[i]);
    least = std::min(least, error > 1e-11 ? -std::log10(error) : 11.0);
  }
  return std::isfinite(least) ? std::max(least, 0.0) : 0.0;
}

TEST(LevenbergMarquardt, SolvesAllOfNistsRegressions) {
  const std::vector<DataSet> sets = read_sets();
  ASSERT_EQ(sets.size(), 27u);
  double sum = 0.0;
  for (const DataSet& set : sets) {
    const Model model = model_of(set.name);
    ASSERT_TRUE(model) << set.name;
    const Residuals residuals = [&](const std::vector<Jet>& b) {
      std::vector<Jet> r;
      for (const RealVector& row : set.rows) {
        const double y = set.name == "Nelson" ? std::log(row[0]) : row[0];
        r.push_back(model(b, {row.begin() + 1, row.end()}) - y);
      }
      return r;
    };
    JetProblem problem(static_cast<int64_t>(set.certified.size()), static_cast<int64_t>(set.rows.size()),
                       residuals);
    for (const RealVector& start : set.starts) {
      const MinimizeResult result =
          minimize(problem, *make_levenberg_marquardt(), start, {.gradient = 0.0, .most_steps = 3000});
      const double agreed = digits(result.at.x, set.certified);
      EXPECT_GE(agreed, 4.0) << set.name << " from " << start[0] << ": " << name_of(result.outcome)
                             << " after " << result.steps << " steps at " << 2.0 * result.at.value << " of "
                             << set.squares;
      sum += agreed;
    }
  }
  EXPECT_GE(sum / 54.0, 9.4);
}

}  // namespace
}  // namespace lockstep
