// The commands that hand weights to other programs: export.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>

namespace lockstep {

// As add_text_commands().
std::function<std::optional<int>()> add_exchange_commands(CLI::App& app);

}  // namespace lockstep
