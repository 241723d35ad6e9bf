// Runs that end: as they should, stopped, diverged, failed.
#include "lockstep/train/run_ending.h"

#include <fmt/format.h>

#include "lockstep/core/log.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/progress.h"
#include "lockstep/train/run_saving.h"

namespace lockstep {

void fail_of_divergence(PreparedRun& run, const std::function<void()>& part) {
  try {
    part();
  } catch (const Divergence& divergence) {
    if (run.keeper) run.keeper->flush_metrics();
    fail_together(run.communicator, ErrorKind::kNumeric,
                  fmt::format("{}; {}", divergence.what(),
                              run.on_disk ? fmt::format("the newest checkpoint is of step {}", run.saved)
                                          : "there is no checkpoint yet"));
  }
}

int tell_failure(PreparedRun& run, const std::function<int()>& part) {
  const auto tell = [&](ErrorKind kind, const std::exception& error) {
    if (run.keeper) run.keeper->status().ended(exit_code(kind), error.what());
  };
  try {
    return part();
  } catch (const Error& error) {
    tell(error.kind(), error);
    throw;
  } catch (const std::exception& error) {
    tell(ErrorKind::kInternal, error);
    throw;
  }
}

void tell_end(PreparedRun& run, const std::function<int()>& part) {
  const int code = tell_failure(run, part);
  if (run.keeper) run.keeper->status().ended(code, "");
}

void finish_run(PreparedRun& run, bool stopped, const std::function<std::string()>& stop_reason) {
  const RunSettings& settings = run.settings;
  if (run.copies->active()) {
    wait_for_write(run);
    run.copies->finish(settings.save_timeout_seconds);
  }
  // The last checkpoint, and then the command after it, each have that long.
  const double seconds = (settings.after_save.empty() ? 1.0 : 2.0) * settings.save_timeout_seconds;
  const std::unique_ptr<Deadline> limit = limit_of_save(run, seconds);
  run_agreed(
      run.communicator,
      [&] {
        if (!run.keeper) return;
        // One that was stopped waits all the same, one that is done until somebody wants it to stop.
        run.keeper->finish(!stopped && run.options.progress && shown_on_terminal(),
                           [&] { return !stopped && !run.callbacks.wants_end().empty(); });
        if (stopped) {
          const std::string reason = stop_reason();
          log_info(fmt::format("stopped{} at step {}; continue with --resume",
                               reason.empty() ? "" : " by " + reason, run.done));
        }
        run.keeper->tell_files(run.on_disk ? run.keeper->path_of(run.saved) : "none");
      },
      "finish", seconds);
}

}  // namespace lockstep
