// Saving: captured by all workers, written by rank 0.
#include "lockstep/train/run_saving.h"

#include <fmt/format.h>

#include "lockstep/core/error.h"
#include "lockstep/train/agreement.h"

namespace lockstep {

std::unique_ptr<Deadline> limit_of_save(const PreparedRun& run, double seconds) {
  if (run.communicator.world_size() > 1) return nullptr;
  return std::make_unique<Deadline>(
      seconds, exit_code(ErrorKind::kCheckpoint), "",
      Deadline::saying(
          fmt::format("{}: saving is not finished after {} s (checkpoint.timeout): its disk does "
                      "not answer; the newest checkpoint there stays",
                      run.settings.output, seconds)));
}

void wait_for_write(PreparedRun& run) {
  run_agreed(
      run.communicator,
      [&] {
        if (run.keeper) run.keeper->finish_write();
      },
      "save", run.settings.save_timeout_seconds);
}

void begin_save(PreparedRun& run) {
  run.agreement->require_finite(run.done);
  const std::unique_ptr<Deadline> limit = limit_of_save(run, run.settings.save_timeout_seconds);
  wait_for_write(run);
  const bool waits =
      run.agreement->any(run.keeper && !run.keeper->has_room(run.state->snapshot_bytes()), "save");
  if (run.keeper) {
    run.keeper->save(
        run.done, run.best,
        [&] { return run.state->capture(run.done, waits ? Snapshot::kInPlace : Snapshot::kOnWorkerZero); },
        waits);
  } else if (run.settings.shard_optimizer) {
    run.state->capture(run.done);
  }
  if (waits) wait_for_write(run);
  run.saved = run.done;
  run.on_disk = true;
}

}  // namespace lockstep
