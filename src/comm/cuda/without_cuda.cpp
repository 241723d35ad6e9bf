// Stands in for the staged communicator in a build without CUDA.
#include "comm/device_communicator.h"
#include "core/error.h"

namespace lockstep {

std::unique_ptr<Communicator> make_staged_communicator(Communicator&, void*) {
  fail(ErrorKind::kUsage, "communicator: this build has no CUDA");
}

}  // namespace lockstep
