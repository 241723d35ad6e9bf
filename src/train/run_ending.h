// How a run ends: what it leaves, and what it says on the terminal and in status.json.
#pragma once

#include <functional>
#include <string>

#include "lockstep/train/prepared_run.h"

namespace lockstep {

// A Divergence of `part` ends the run on every worker, which all have found the same, with what is left of
// it.
void fail_of_divergence(PreparedRun& run, const std::function<void()>& part);

// The exit code that `part` returns, or that of what it throws, is the run's, and is said.
void tell_end(PreparedRun& run, const std::function<int()>& part);
// What `part` throws ends the run, and is said.
int tell_failure(PreparedRun& run, const std::function<int()>& part);

// Everything on disk, and the last lines of the log. stop_reason: that of this worker where the run was
// stopped.
void finish_run(PreparedRun& run, bool stopped, const std::function<std::string()>& stop_reason);

}  // namespace lockstep
