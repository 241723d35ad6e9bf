// The command profile: which kernels a training step is made of, what they take, and what they would at
// least.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"

namespace lockstep {

struct ProfileArguments {
  int64_t steps = 3;  // that are timed
};

// Beside those of the configuration.
void add_profile_options(CLI::App& command, ProfileArguments& arguments);

// Trains a few steps and prints a table, on rank 0. Nothing of the run is kept. Collective.
void profile_command(const ProfileArguments& arguments, Configuration& configuration,
                     Communicator& communicator);

}  // namespace lockstep
