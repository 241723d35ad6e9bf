// The commands of the program that need no other workers, as one table.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <vector>

namespace lockstep {

// Runs a command where it was asked for, after parsing: its exit code; nullopt: another command was.
using RunCommand = std::function<std::optional<int>()>;

// Adds all of them to the program, in the order in which its help lists them.
std::vector<RunCommand> add_other_commands(CLI::App& app);

}  // namespace lockstep
