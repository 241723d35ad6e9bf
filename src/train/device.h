// What this worker computes on, and how the arrays that live there travel between workers.
#pragma once

#include <functional>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/kernels/backend.h"
#include "lockstep/train/settings.h"

namespace lockstep {

class WorkerDevice {
 public:
  // settings.device; auto is the GPU where the build has CUDA and this machine a GPU. The GPUs that a worker
  // sees are dealt out in turn to the workers of its host, so that it makes no difference whether every
  // worker sees all of them or its own alone. Error (kUsage) when there is none, or settings.gpu_transport is
  // not built in. settings.cudnn decides what the GPU's convolutions and attention are computed with.
  // through: gives the backend that stands for the chosen one; empty: it stands for itself. The communicator
  // must outlive the object.
  WorkerDevice(const RunSettings& settings, Communicator& communicator,
               const std::function<Backend&(Backend&)>& through = {});
  // Takes the communicator's device from it again.
  ~WorkerDevice();
  WorkerDevice(const WorkerDevice&) = delete;
  WorkerDevice& operator=(const WorkerDevice&) = delete;

  Backend& backend() const { return *backend_; }

  // Gives the communicator a device() that moves the backend's memory, where that is not the host's.
  // Collective; every worker gets the same failure (kUsage) when they compute on different kinds or models of
  // devices, with other libraries, or on one GPU without settings.share_gpu or through NCCL, or move arrays
  // in different ways.
  void connect();

  // Both of the above in words: "cuda: ... | mpi: 4 workers, ... | arrays through NCCL 2.28.9".
  std::string description() const;

 private:
  Communicator* communicator_;
  bool share_gpu_;
  bool through_host_;  // arrays, rather than through NCCL
  CommunicatorOptions limits_;
  Backend* backend_ = nullptr;
  std::string gpu_;  // its identity, or empty on a CPU
};

}  // namespace lockstep
