// Stands in for the staged communicator in a build without CUDA.
#include "lockstep/comm/device_communicator.h"
#include "lockstep/core/error.h"

namespace lockstep {

std::unique_ptr<Communicator> make_staged_communicator(Communicator&, void*) {
  fail(ErrorKind::kUsage, "communicator: this build has no CUDA");
}

}  // namespace lockstep
