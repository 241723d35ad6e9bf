// Forking under the library's lock, which the only thread of the child then holds, and gives back.
#include "lockstep/hdf5/fork.h"

#include <unistd.h>

#include "lockstep/hdf5/library.h"

namespace lockstep {

pid_t fork_between_calls() {
  const LibraryLock lock;
  return ::fork();
}

}  // namespace lockstep
