// What the host and a GPU's queue tell each other without waiting: results that are read later, and work that
// is told once and run again and again, as a CUDA graph.
#include <memory>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/waits.h"

namespace lockstep {

namespace {

class CudaMailbox final : public Mailbox {
 public:
  CudaMailbox(CudaBackend& backend, size_t bytes, int64_t places)
      : backend_(backend), bytes_(bytes), copied_(static_cast<size_t>(places)) {
    backend_.native_queue();  // makes the device the thread's
    void* memory = nullptr;
    check_cuda(cudaMallocHost(&memory, bytes * copied_.size()), "pinned memory");
    memory_ = static_cast<std::byte*>(memory);
    for (cudaEvent_t& event : copied_)
      check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  }
  ~CudaMailbox() override {
    for (cudaEvent_t event : copied_) {
      if (event != nullptr) {
        cudaEventSynchronize(event);  // of a copy that nobody read
        cudaEventDestroy(event);
      }
    }
    cudaFreeHost(memory_);
  }
  CudaMailbox(const CudaMailbox&) = delete;
  CudaMailbox& operator=(const CudaMailbox&) = delete;

  void post(int64_t place, const void* source) override {
    const auto stream = static_cast<cudaStream_t>(backend_.native_queue());
    check_cuda(cudaMemcpyAsync(at(place), source, bytes_, cudaMemcpyDeviceToHost, stream),
               "copy to the host");
    check_cuda(cudaEventRecord(copied_[static_cast<size_t>(place)], stream), "event");
  }
  const void* read(int64_t place) override {
    wait_for(copied_[static_cast<size_t>(place)], "copy to the host");
    return at(place);
  }

 private:
  std::byte* at(int64_t place) { return memory_ + static_cast<size_t>(place) * bytes_; }

  CudaBackend& backend_;
  size_t bytes_;
  std::vector<cudaEvent_t> copied_;
  std::byte* memory_ = nullptr;
};

class CudaRecording final : public Recording {
 public:
  // Takes the graph.
  CudaRecording(cudaStream_t stream, cudaGraph_t graph) : stream_(stream) {
    const cudaError_t status = cudaGraphInstantiate(&program_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "graph");
  }
  ~CudaRecording() override {
    cudaStreamSynchronize(stream_);  // it may be running
    cudaGraphExecDestroy(program_);
  }
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;

  void replay() override { check_cuda(cudaGraphLaunch(program_, stream_), "graph launch"); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t program_ = nullptr;
};

}  // namespace

std::unique_ptr<Mailbox> CudaBackend::mailbox(size_t bytes, int64_t places) {
  return std::make_unique<CudaMailbox>(*this, bytes, places);
}

bool CudaBackend::begin_recording() {
  recorded_ = true;
  {
    // What the lane is given between two waits becomes part of the recording.
    const std::lock_guard lock(mutex_);
    if (lane_) lane_->recorded_ = true;
  }
  // Relaxed: what is not issued to the queue, as asking for memory, goes on as ever.
  check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "recording");
  return true;
}

std::unique_ptr<Recording> CudaBackend::end_recording() {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream(), &graph), "recording");
  return std::make_unique<CudaRecording>(stream(), graph);
}

}  // namespace lockstep
