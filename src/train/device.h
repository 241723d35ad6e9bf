// What this worker computes on, and how the arrays that live there travel between workers.
#pragma once

#include "comm/communicator.h"
#include "kernels/backend.h"
#include "train/settings.h"

namespace lockstep {

class WorkerDevice {
 public:
  // settings.device; auto is the GPU where the build has CUDA and this machine a GPU. The GPU of a worker has
  // its number among the workers of the host; with settings.share_gpu they are dealt out in turn. Error
  // (kUsage) when there is none, or too few of them, or settings.gpu_transport is not built in. The
  // communicator must outlive the object.
  WorkerDevice(const RunSettings& settings, Communicator& communicator);
  // Takes the communicator's device from it again.
  ~WorkerDevice();
  WorkerDevice(const WorkerDevice&) = delete;
  WorkerDevice& operator=(const WorkerDevice&) = delete;

  Backend& backend() const { return *backend_; }

  // Gives the communicator a device() that moves the backend's memory, where that is not the host's.
  // Collective; every worker gets the same failure when some compute on a CPU and others on a GPU.
  void connect();

  // Both of the above in words: "cuda: ... | mpi: 4 workers, ... | arrays through NCCL 2.28.9".
  std::string description() const;

 private:
  Communicator* communicator_;
  bool through_host_;  // arrays, rather than through NCCL
  double timeout_seconds_;
  Backend* backend_ = nullptr;
};

}  // namespace lockstep
