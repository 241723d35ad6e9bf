// Choosing the device of a worker and the communicator for its memory.
#include "train/device.h"

#include <fmt/format.h>

#include "comm/device_communicator.h"
#include "core/error.h"
#include "train/agreement.h"

namespace lockstep {

namespace {

Backend& gpu_of(const HostPlace& place, bool share_gpu) {
  const int gpus = cuda_device_count();
  if (gpus == 0) return cuda_backend(0);  // says why there is none
  if (place.workers > gpus && !share_gpu) {
    fail(ErrorKind::kUsage, fmt::format("device.type: {} workers on this host, {} GPU{}: start at most one "
                                        "worker a GPU, or let them share "
                                        "with parallel.share_gpu = true",
                                        place.workers, gpus, gpus == 1 ? "" : "s"));
  }
  return cuda_backend(place.rank % gpus);
}

// Whether the backend computes on a GPU, whose memory the host does not see.
bool on_gpu(Backend& backend) {
  return backend.native_queue() != nullptr;
}

}  // namespace

WorkerDevice::WorkerDevice(const RunSettings& settings, Communicator& communicator)
    : communicator_(&communicator),
      through_host_(settings.gpu_transport == "host" ||
                    (settings.gpu_transport == "auto" && (settings.share_gpu || nccl_library() == "none"))),
      timeout_seconds_(settings.timeout_seconds) {
  const bool gpu = settings.device == "cuda" || (settings.device == "auto" && cuda_device_count() > 0);
  backend_ = gpu ? &gpu_of(communicator.host_place(), settings.share_gpu) : &cpu_backend();
  if (on_gpu(*backend_) && settings.gpu_transport == "nccl" && nccl_library() == "none") {
    fail(ErrorKind::kUsage, "parallel.gpu_transport: this build has no NCCL");
  }
}

WorkerDevice::~WorkerDevice() {
  communicator_->use_device(nullptr);
}

void WorkerDevice::connect() {
  // The larger of (on a GPU, on a CPU) over all workers.
  int64_t kinds[2] = {on_gpu(*backend_) ? 1 : 0, on_gpu(*backend_) ? 0 : 1};
  communicator_->all_reduce_max(kinds, 2, "device")->wait();
  if (kinds[0] + kinds[1] == 2) {
    fail_together(*communicator_, ErrorKind::kUsage,
                  "device.type: some workers found a GPU, others did not: choose --device cpu, or hosts that "
                  "have GPUs");
  }
  if (!on_gpu(*backend_) || communicator_->world_size() == 1) return;
  void* const queue = backend_->lane().native_queue();
  communicator_->use_device(through_host_
                                ? make_staged_communicator(*communicator_, queue)
                                : make_nccl_communicator(*communicator_, queue, {timeout_seconds_}));
}

std::string WorkerDevice::description() const {
  std::string text = fmt::format("{} | {}", backend_->description(), communicator_->description());
  if (&communicator_->device() != communicator_) text += " | " + communicator_->device().description();
  return text;
}

}  // namespace lockstep
