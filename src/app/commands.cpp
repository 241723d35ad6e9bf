// The table of commands.
#include "lockstep/app/commands.h"

#include "lockstep/app/config_command.h"
#include "lockstep/app/doctor_command.h"
#include "lockstep/app/exchange_commands.h"
#include "lockstep/app/file_commands.h"
#include "lockstep/app/generate_command.h"
#include "lockstep/app/report_command.h"
#include "lockstep/app/text_commands.h"
#include "lockstep/app/watch_command.h"

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

}  // namespace lockstep
