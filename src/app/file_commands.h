// The commands about files alone: prepare, inspect, diff.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>

namespace lockstep {

// Each as add_text_commands().
std::function<std::optional<int>()> add_prepare_command(CLI::App& app);
std::function<std::optional<int>()> add_inspect_command(CLI::App& app);
std::function<std::optional<int>()> add_diff_command(CLI::App& app);

}  // namespace lockstep
