// The table of commands.
#include "lockstep/app/commands.h"

#include <fmt/format.h>

#include "lockstep/app/config_command.h"
#include "lockstep/app/doctor_command.h"
#include "lockstep/app/exchange_commands.h"
#include "lockstep/app/file_commands.h"
#include "lockstep/app/generate_command.h"
#include "lockstep/app/report_command.h"
#include "lockstep/app/text_commands.h"
#include "lockstep/app/watch_command.h"
#include "lockstep/comm/neighbours.h"
#include "lockstep/core/log.h"

namespace lockstep {

std::vector<RunCommand> add_other_commands(CLI::App& app) {
  // clang-format off
  return {
      add_prepare_command(app),
      add_text_commands(app),
      add_exchange_commands(app),
      add_generate_command(app),
      add_watch_command(app),
      add_report_command(app),
      add_doctor_command(app),
      add_inspect_command(app),
      add_diff_command(app),
      add_config_command(app),
  };
  // clang-format on
}

bool leaves_to_first(const std::string& what) {
  if (launched_rank() > 0) return true;
  if (const int workers = launched_workers(); workers > 1)
    log_warning(
        fmt::format("{}: takes one worker: rank 0 does it, {} have nothing to do", what, workers - 1));
  return false;
}

}  // namespace lockstep
