// What each worker has to say, to all of them.
#pragma once

#include <string>
#include <vector>

#include "lockstep/comm/communicator.h"

namespace lockstep {

// The texts of all workers, by rank. Collective.
std::vector<std::string> worker_texts(Communicator& communicator, const std::string& text,
                                      const std::string& label);

}  // namespace lockstep
