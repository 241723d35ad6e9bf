// The command landscape: methods over a function of two variables, or planes through the loss of a network.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "lockstep/app/landscape.h"
#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/train/loss_slice.h"

namespace lockstep {

struct LandscapeCommand {
  LandscapeArguments function;  // its output and steps are those of both
  std::string checkpoint, weights, base, data = "training";
  SliceWants slice;
};

// configuration: the options that only a checkpoint's landscape has, CONFIG the first.
void add_landscape_options(CLI::App& command, LandscapeCommand& arguments,
                           const std::vector<CLI::Option*>& configuration);

// One object, the same on any number of workers; what is no number is null. Writes the files that were asked
// for, FILE.svg and FILE.h5, and a sketch to stderr where that is a terminal. Collective.
nlohmann::ordered_json landscape_command(const LandscapeCommand& arguments, Configuration& configuration,
                                         Communicator& communicator);

}  // namespace lockstep
