// The command curvature: its options, what it prints and writes.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/train/checkpoint_curvature.h"

namespace lockstep {

struct CurvatureArguments {
  std::string checkpoint, weights, base;
  std::string data = "training";
  CurvatureWants wants;
  int64_t most_values = 10;  // of eigenvalues shown at each end
  std::string output;        // directory; "": no files
};

// Beside those of the configuration.
void add_curvature_options(CLI::App& command, CurvatureArguments& arguments);

// One object, the same on any number of workers; what is no number is null. Writes the files that were asked
// for, and a sketch to stderr where that is a terminal. Collective.
nlohmann::ordered_json curvature_command(const CurvatureArguments& arguments, Configuration& configuration,
                                         Communicator& communicator);

}  // namespace lockstep
