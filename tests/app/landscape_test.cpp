// The landscape command: paths of methods over functions of two variables, their lines and their picture.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "hdf5/scratch_directory.h"
#include "lockstep/app/run_main.h"

namespace lockstep {
namespace {

struct LandscapeAnswer {
  int exit_code;
  std::vector<nlohmann::json> lines;
  std::string err;
};

LandscapeAnswer landscape(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"lockstep", "landscape"});
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int exit_code = run_main(static_cast<int>(pointers.size()), pointers.data());
  std::istringstream out(::testing::internal::GetCapturedStdout());
  LandscapeAnswer answer{exit_code, {}, ::testing::internal::GetCapturedStderr()};
  for (std::string line; std::getline(out, line);) answer.lines.push_back(nlohmann::json::parse(line));
  return answer;
}

TEST(Landscape, EveryMethodEndsInTheMinimumThatItIsKnownFor) {
  struct Case {
    const char *function, *start;
    double x, y;
  };
  for (const Case& c : {Case{"rosenbrock", "-1.2,1", 1.0, 1.0},
                        {"beale", "1,1", 3.0, 0.5},
                        {"himmelblau", "2.5,2.5", 3.0, 2.0},
                        {"quadratic:1000", "1,1", 0.0, 0.0}}) {
    const LandscapeAnswer answer = landscape({"--function", c.function, "--start", c.start, "--methods",
                                              "bfgs,lbfgs,newton,newton_cg,trust_region", "--steps", "500"});
    ASSERT_EQ(answer.exit_code, 0) << answer.err;
    ASSERT_EQ(answer.lines.size(), 5u);
    for (const nlohmann::json& line : answer.lines) {
      EXPECT_EQ(line["outcome"], "converged") << line;
      EXPECT_NEAR(line["at"][0].get<double>(), c.x, 1e-6) << line;
      EXPECT_NEAR(line["at"][1].get<double>(), c.y, 1e-6) << line;
    }
  }
}

TEST(Landscape, NewtonNeedsOneStepWhereDescentNeedsAsManyAsTheConditionNumber) {
  int64_t before = 0;
  for (const char* function : {"quadratic:1", "quadratic:10", "quadratic:100"}) {
    // Where steepest descent is slowest: at (condition, 1).
    const std::string condition = std::string(function).substr(10);
    const LandscapeAnswer answer =
        landscape({"--function", function, "--start", condition + ",1", "--methods",
                   "newton,line_descent,momentum", "--steps", "5000"});
    ASSERT_EQ(answer.lines.size(), 3u) << answer.err;
    EXPECT_EQ(answer.lines[0]["steps"], 1);
    EXPECT_EQ(answer.lines[1]["outcome"], "converged");
    EXPECT_GT(answer.lines[1]["steps"].get<int64_t>(), before);
    before = answer.lines[1]["steps"].get<int64_t>();
    EXPECT_EQ(answer.lines[2]["gradients"], 5000);
  }
}

TEST(Landscape, DrawsALinePathAndALegendOfEachMethod) {
  const testing::ScratchDirectory scratch;
  const std::string file = scratch.file("paths.svg");
  const LandscapeAnswer answer = landscape({"--methods", "adam,lbfgs", "--steps", "30", "--output", file});
  ASSERT_EQ(answer.exit_code, 0) << answer.err;
  std::stringstream svg;
  svg << std::ifstream(file).rdbuf();
  const std::string text = svg.str();
  const auto count = [&text](const std::string& part) {
    int found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  };
  EXPECT_EQ(count("<polyline "), 2);
  EXPECT_EQ(count("class=\"level\""), 16);
  EXPECT_EQ(count("d=\"M"), 16);  // none is empty
  EXPECT_EQ(count(">adam: "), 1);
  EXPECT_EQ(count(">lbfgs: "), 1);
  EXPECT_EQ(count("nan"), 0);
  EXPECT_EQ(text.substr(text.size() - 7), "</svg>\n");
}

TEST(Landscape, DrawsWhatLiesFarFromZero) {
  const testing::ScratchDirectory scratch;
  const std::string file = scratch.file("paths.svg");
  for (const char* start : {"1e17,0", "0,-3e30", "1e200,1e200"}) {
    const LandscapeAnswer answer = landscape({"--function", "quadratic:1", "--methods", "adam,lbfgs",
                                              "--start", start, "--steps", "3", "--output", file});
    ASSERT_EQ(answer.exit_code, 0) << answer.err;
    std::stringstream svg;
    svg << std::ifstream(file).rdbuf();
    EXPECT_EQ(svg.str().find("nan"), std::string::npos) << start;
  }
}

TEST(Landscape, SaysWhatItDoesNotKnow) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--function", "sphere"},
                                             {"--function", "quadratic:0"},
                                             {"--function", "quadratic:"},
                                             {"--methods", "simplex"},
                                             {"--start", "1"},
                                             {"--start", "inf,0"},
                                             {"--output", "paths.png"},
                                             {"--steps", "0"}}) {
    const LandscapeAnswer answer = landscape(arguments);
    EXPECT_EQ(answer.exit_code, 2) << arguments[0] << " " << arguments[1];
    EXPECT_NE(answer.err.find(arguments[0]), std::string::npos) << answer.err;
  }
}

}  // namespace
}  // namespace lockstep
