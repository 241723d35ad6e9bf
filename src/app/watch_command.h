// The command that shows a run as it goes on, watch.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>

#include "lockstep/app/run_view.h"

namespace lockstep {

// As add_text_commands().
std::function<std::optional<int>()> add_watch_command(CLI::App& app);

// What is shown of a run: lines of at most `columns` columns, at most `rows` of them, each ended. silence:
// seconds since the run has last written its status.
std::string watch_frame(const RunView& run, int columns, int rows, double silence);

}  // namespace lockstep
