// The command that draws the paths of methods over a function of two variables, landscape.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>

namespace lockstep {

// Adds the command to the program. The function runs it where it was asked for, after parsing: its exit code;
// nullopt: another command was.
std::function<std::optional<int>()> add_landscape_command(CLI::App& app);

}  // namespace lockstep
