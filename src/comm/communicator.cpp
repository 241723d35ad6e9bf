// Chooses the communicator from what started this process.
#include "lockstep/comm/communicator.h"

#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "lockstep/comm/deadline.h"
#include "lockstep/core/error.h"

namespace lockstep {

namespace {

class Condition final : public Request {
 public:
  explicit Condition(std::function<bool()> came) : came_(std::move(came)) {}
  bool test() override { return came_(); }
  void wait() override {
    while (!came_()) std::this_thread::yield();
  }

 private:
  std::function<bool()> came_;
};

}  // namespace

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

std::unique_ptr<Request> Communicator::until(std::function<bool()> came, std::string) {
  return std::make_unique<Condition>(std::move(came));
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
