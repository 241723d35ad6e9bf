// Choosing the device of a worker and the communicator for its memory.
#include "lockstep/train/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "lockstep/comm/device_communicator.h"
#include "lockstep/core/error.h"
#include "lockstep/train/agreement.h"
#include "lockstep/train/worker_texts.h"

namespace lockstep {

namespace {

// Fails on every worker unless all bring the same text. Collective.
void require_same(Communicator& communicator, const std::string& text, const char* key, const char* rule) {
  const std::vector<std::string> texts = worker_texts(communicator, text, key);
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    fail_together(communicator, ErrorKind::kUsage,
                  fmt::format("{}: workers differ: rank 0 has \"{}\", rank {} has \"{}\": {}", key, texts[0],
                              rank, texts[rank], rule));
  }
}

// Whether the backend computes on a GPU, whose memory the host does not see.
bool on_gpu(Backend& backend) {
  return backend.native_queue() != nullptr;
}

// What NCCL tells a worker's GPU by. It refuses to have one twice, but of workers that pose as hosts of their
// own and, from version 2.30 on, where it is told otherwise.
std::string gpu_for_nccl(const std::string& gpu, int rank) {
  const char* const host = std::getenv("NCCL_HOSTID");
  const char* const several = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  const bool by_rank = several != nullptr && std::string_view(several) != "0";
  return fmt::format("{} {} {}", gpu, host == nullptr ? "" : host, by_rank ? rank : -1);
}

}  // namespace

WorkerDevice::WorkerDevice(const RunSettings& settings, Communicator& communicator,
                           const std::function<Backend&(Backend&)>& through)
    : communicator_(&communicator),
      share_gpu_(settings.share_gpu),
      through_host_(settings.gpu_transport == "host" ||
                    (settings.gpu_transport == "auto" && settings.share_gpu)),
      limits_{settings.timeout_seconds, settings.start_timeout_seconds} {
  const bool gpu = settings.device == "cuda" || (settings.device == "auto" && cuda_device_count() > 0);
  const int gpus = cuda_device_count();
  // Without any, cuda_backend(0) says why.
  const int number = gpus > 0 ? communicator.host_place().rank % gpus : 0;
  backend_ = gpu ? &cuda_backend(number) : &cpu_backend();
  if (through) backend_ = &through(*backend_);
  backend_->use_cudnn(settings.cudnn);
  if (gpu) gpu_ = cuda_device_identity(number);
  if (on_gpu(*backend_) && !through_host_ && nccl_library() == "none") {
    if (settings.gpu_transport == "nccl") {
      fail(ErrorKind::kUsage,
           "parallel.gpu_transport: this build has no NCCL, or its library cannot be loaded");
    }
    through_host_ = true;
  }
}

WorkerDevice::~WorkerDevice() {
  communicator_->use_device(nullptr);
}

void WorkerDevice::connect() {
  require_same(
      *communicator_, backend_->description(), "device.type",
      "bits depend on the device and its libraries: choose hosts that are alike, or --device cpu, or one "
      "LOCKSTEP_CPU_KERNELS for all");
  if (!on_gpu(*backend_) || communicator_->world_size() == 1) return;
  require_same(*communicator_,
               fmt::format("{}, {}", through_host_ ? "through host memory" : "through " + nccl_library(),
                           share_gpu_ ? "GPUs may be shared" : "a GPU each"),
               "parallel.gpu_transport",
               "give all the same parallel.gpu_transport and parallel.share_gpu, and the same NCCL");
  const std::string mine = share_gpu_ ? gpu_for_nccl(gpu_, communicator_->rank()) : gpu_;
  const std::vector<std::string> gpus = worker_texts(*communicator_, mine, "GPUs");
  const bool may_meet = share_gpu_ && through_host_;
  for (size_t rank = 1; rank < gpus.size() && !may_meet; ++rank) {
    const auto other = std::find(gpus.begin(), gpus.end(), gpus[rank]) - gpus.begin();
    if (static_cast<size_t>(other) == rank) continue;
    fail_together(
        *communicator_, ErrorKind::kUsage,
        fmt::format("{}: ranks {} and {} have one GPU between them ({}){}",
                    share_gpu_ ? "parallel.gpu_transport" : "device.type", other, rank,
                    gpus[rank].substr(0, gpus[rank].find(' ')),
                    share_gpu_
                        ? ", which NCCL refuses: leave it at \"auto\", or start at most one worker a GPU"
                        : ": start at most one worker a GPU, or let them share with "
                          "parallel.share_gpu = true"));
  }
  void* const queue = backend_->lane().native_queue();
  communicator_->use_device(through_host_ ? make_staged_communicator(*communicator_, queue)
                                          : make_nccl_communicator(*communicator_, queue, limits_));
}

std::string WorkerDevice::description() const {
  std::string text = fmt::format("{} | {}", backend_->description(), communicator_->description());
  if (&communicator_->device() != communicator_) text += " | " + communicator_->device().description();
  return text;
}

}  // namespace lockstep
