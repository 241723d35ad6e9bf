// Chooses the communicator from what started this process.
#include "lockstep/comm/communicator.h"

#include <cstdlib>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

bool launched_by_mpi() {
  // Open MPI's mpirun; any PMIx launcher (Open MPI 5, srun --mpi=pmix); MPICH's and Slurm's PMI-1 and PMI-2.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options) {
  if (launched_by_mpi()) return make_mpi_communicator(options);
  // srun without PMI: each of its tasks would train by itself what all of them are to train together.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks != nullptr && std::atoi(tasks) > 1) {
    fail(ErrorKind::kUsage, std::string("communicator: srun has started ") + tasks +
                                " tasks that do not know of each other: use srun --mpi=pmix or "
                                "launch/mpirun.sh (separate runs: unset "
                                "SLURM_STEP_NUM_TASKS)");
  }
  return make_self_communicator();
}

}  // namespace lockstep
