// The worker's log: rank 0 speaks, the others only warn; messages go to stderr so that stdout carries
// results.
#pragma once

#include <string>

namespace lockstep {

// Called once by the command. Ranks other than 0 log warnings and errors only, each line with "[rank r]".
void configure_log(int rank, int world_size, bool verbose);

void log_info(const std::string& message);
void log_warning(const std::string& message);
void log_error(const std::string& message);

}  // namespace lockstep
