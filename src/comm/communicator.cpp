// Chooses the communicator from what started this process.
#include "lockstep/comm/communicator.h"

#include <cstdlib>

#include "lockstep/comm/deadline.h"

namespace lockstep {

bool launched_by_mpi() {
  // Open MPI's mpirun; any PMIx launcher (Open MPI 5, srun --mpi=pmix); MPICH's and Slurm's PMI-1 and PMI-2.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

std::string Communicator::host_of(int) const {
  return host_name();
}

std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options) {
  return launched_by_mpi() ? make_mpi_communicator(options) : make_self_communicator();
}

}  // namespace lockstep
