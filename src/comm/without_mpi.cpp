// Stands in for the MPI communicator in a build without MPI: a launched job ends with a clear message instead
// of running as many independent copies.
#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"

namespace lockstep {

std::unique_ptr<Communicator> make_mpi_communicator(const CommunicatorOptions&) {
  fail(ErrorKind::kUsage,
       "communicator: a launcher started several workers, but this build has no MPI: "
       "configure with -DLOCKSTEP_MPI=ON or run without mpirun");
}

std::string communication_library() {
  return "none: one worker only";
}

}  // namespace lockstep
