// Whether the workers of each host together have memory for what every worker is about to take: each by
// itself would find that there is enough. Collective, and the same on every worker.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"

namespace lockstep {

// "takes 8 bytes of memory: 4 are available", where a worker has not got what it asks for by itself
// (fits_memory), or "takes 24 bytes of memory on 3 workers of host node7: 16 are available". Empty where
// there is enough. bytes: that this worker is to take.
std::string lack_of_memory(Communicator& communicator, int64_t bytes);

// AgreedFailure in one line where there is not enough. what: a file, or a setting.
void require_memory_on_hosts(Communicator& communicator, const std::string& what, int64_t bytes,
                             ErrorKind kind);

}  // namespace lockstep
