// The paths of methods over a function of two variables.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

struct LandscapeArguments {
  std::string function = "rosenbrock", output;
  std::vector<std::string> methods = {"momentum", "adam", "lbfgs", "newton_cg", "trust_region"};
  std::vector<double> start = {-1.2, 1.0};
  int64_t steps = 200;
  double learning_rate = 0.001;
};

// Prints a JSON line a method, and draws the picture where it was asked for. Returns the exit code.
int run_landscape(const LandscapeArguments& arguments);

}  // namespace lockstep
