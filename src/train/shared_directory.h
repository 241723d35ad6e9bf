// Which workers see the same directory as rank 0.
#pragma once

#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"

namespace lockstep {

// By rank: whether a file that rank 0 puts into its directory appears in the worker's own. Rank 0 itself
// always does. Error (kCheckpoint), together, when rank 0 cannot write there. Collective.
std::vector<bool> workers_that_see(const std::string& directory, Communicator& communicator);

}  // namespace lockstep
