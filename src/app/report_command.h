// The command that compares runs on a page, report.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/app/run_view.h"

namespace lockstep {

// As add_text_commands().
std::function<std::optional<int>()> add_report_command(CLI::App& app);

// One HTML page, well-formed as XML behind its first line, that asks for nothing from elsewhere.
std::string report_page(const std::vector<RunView>& runs);

}  // namespace lockstep
