// One table of plans for all workers, for the whole run: what is computed by which algorithm decides about
// bits.
#pragma once

#include <functional>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/kernels/plan_table.h"

namespace lockstep {

// Where plans come from; of rank 0 alone.
struct PlanSources {
  std::string checkpoint;  // text of plans that the run has had so far, or empty
  bool tune = false;       // choose by measurement, where it has had none
  std::string cache;       // file or directory of what was measured before, or empty
};

// The same plans for every worker from now on, those of rank 0: of the checkpoint, if it has any for this
// device; else, where they are to be tuned, of a rehearsal, which calls what the run will call, with no
// effect on the run. A call that the table has no choice for takes the library's first proposal on every
// worker. The cache spares measurements and receives them; one that cannot be read or written is a warning.
// table: of this worker's device, null where nothing is left open, which is said when asked to tune.
// Collective; a failure of the rehearsal is one on all.
void agree_on_plans(PlanTable* table, Communicator& communicator, const PlanSources& sources,
                    const std::function<void()>& rehearse);

// What PlanSources::checkpoint is to be when this run goes on. table may be null.
std::string plans_of_run(const PlanTable* table);

// The value of LOCKSTEP_PLAN_CACHE, or empty.
std::string plan_cache_path();

}  // namespace lockstep
