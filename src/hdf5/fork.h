// A fork whose child may use the HDF5 library, whatever other threads were about.
#pragma once

#include <sys/types.h>

namespace lockstep {

// ::fork(), while no other thread is within a call of the library.
pid_t fork_between_calls();

}  // namespace lockstep
