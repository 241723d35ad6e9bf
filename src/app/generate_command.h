// The command that writes text: generate.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>

namespace lockstep {

// As add_text_commands().
std::function<std::optional<int>()> add_generate_command(CLI::App& app);

}  // namespace lockstep
