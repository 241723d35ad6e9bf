// A checkpoint of the state of a run, which rank 0 writes beside the steps that follow.
#pragma once

#include <memory>

#include "lockstep/comm/deadline.h"
#include "lockstep/train/prepared_run.h"

namespace lockstep {

// Of step run.done, whose report has been read. Error (kNumeric), and nothing is written, where the newest
// update left something that is not finite. Collective.
void begin_save(PreparedRun& run);

// Of one worker alone, whom nobody else gives up: where the object lives for so many seconds, the process
// says so and ends with the code of kCheckpoint. (What waits for a disk cannot be woken.) Else null.
std::unique_ptr<Deadline> limit_of_save(const PreparedRun& run, double seconds);

// The others wait for rank 0 longer than for a step: a checkpoint may still be on its way to disk.
void wait_for_write(PreparedRun& run);

}  // namespace lockstep
