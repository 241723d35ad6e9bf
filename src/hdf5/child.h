// Child processes that may use the HDF5 library, whatever other threads were about.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

// ::fork(), while no other thread is within a call of the library.
pid_t fork_between_calls();

// Runs `reading`, which reads the file, in a child process first: content that ends the HDF5 library ends
// the child. Errors (kind): the child crashed, or took more than `seconds` of processor time and one more for
// each MiB of the file. What `reading` throws is no verdict: the caller will find the same.
void read_in_child(const std::string& path, ErrorKind kind, int64_t seconds,
                   const std::function<void()>& reading);

}  // namespace lockstep
