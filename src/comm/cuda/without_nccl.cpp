// Stands in for the NCCL communicator in a build without NCCL.
#include "lockstep/comm/device_communicator.h"
#include "lockstep/core/error.h"

namespace lockstep {

std::unique_ptr<Communicator> make_nccl_communicator(Communicator&, void*, const CommunicatorOptions&) {
  fail(ErrorKind::kUsage, "communicator: this build has no NCCL");
}

std::string nccl_library() {
  return "none";
}

}  // namespace lockstep
