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

enum class ChildReading { kDone, kGivenUp, kNotStarted };

// Runs `reading`, which reads the file, in a child process first: content that ends the HDF5 library ends
// the child. kGivenUp: `gives_up`, asked all the time, has ended it. kNotStarted: no process could be had;
// errno says why. DamagedFile (kind): the child crashed, or took more than `seconds` of processor time and
// one more for each MiB of the file. Error (kind): what `reading` returns, if anything. What it throws is no
// verdict: the caller will find the same.
ChildReading read_in_child(const std::string& path, ErrorKind kind, int64_t seconds,
                           const std::function<std::string()>& reading,
                           const std::function<bool()>& gives_up = {});

}  // namespace lockstep
