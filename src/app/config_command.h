// The command that describes the configuration, config.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>

namespace lockstep {

// As add_text_commands().
std::function<std::optional<int>()> add_config_command(CLI::App& app);

}  // namespace lockstep
