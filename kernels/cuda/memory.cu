// Memory and queues of a GPU: allocation, copies, waiting.
#include <algorithm>
#include <cstring>

#include "lockstep/core/device_wait.h"
#include "lockstep/core/error.h"
#include "lockstep/core/idle_memory.h"
#include "lockstep/core/op_scope.h"
#include "lockstep/kernels/cuda/cuda_backend.h"
#include "lockstep/kernels/cuda/pinned_ring.h"
#include "lockstep/kernels/cuda/waits.h"

namespace lockstep {

namespace {

bool is_done(cudaError_t status, const char* where) {
  if (status == cudaErrorNotReady) {
    cudaGetLastError();  // the runtime would report it again at the next launch
    return false;
  }
  check_cuda(status, where);
  return true;
}

}  // namespace

bool has_passed(cudaEvent_t event, const char* where) {
  return is_done(cudaEventQuery(event), where);
}

void wait_for(cudaEvent_t event, const char* where) {
  wait_for_device([&] { return has_passed(event, where); },
                  [&] { check_cuda(cudaEventSynchronize(event), where); });
}

PinnedRing::PinnedRing() {
  for (Piece& piece : pieces_) {
    void* memory = nullptr;
    check_cuda(cudaMallocHost(&memory, kPieceBytes), "pinned memory");
    piece.memory = static_cast<std::byte*>(memory);
    check_cuda(cudaEventCreateWithFlags(&piece.copied, cudaEventDisableTiming), "event");
  }
}

PinnedRing::~PinnedRing() {
  for (const Piece& piece : pieces_) {
    cudaEventDestroy(piece.copied);
    cudaFreeHost(piece.memory);
  }
}

PinnedRing::Piece& PinnedRing::take() {
  Piece& piece = pieces_[next_];
  next_ = (next_ + 1) % pieces_.size();
  wait_for(piece.copied, "copy");
  return piece;
}

void PinnedRing::upload(void* destination, const void* source, size_t bytes, cudaStream_t stream) {
  for (size_t done = 0; done < bytes; done += kPieceBytes) {
    const size_t count = std::min(kPieceBytes, bytes - done);
    Piece& piece = take();
    std::memcpy(piece.memory, static_cast<const std::byte*>(source) + done, count);
    check_cuda(cudaMemcpyAsync(static_cast<std::byte*>(destination) + done, piece.memory, count,
                               cudaMemcpyHostToDevice, stream),
               "copy to the device");
    check_cuda(cudaEventRecord(piece.copied, stream), "event");
  }
}

void PinnedRing::download(void* destination, const void* source, size_t bytes, cudaStream_t stream) {
  size_t issued = 0, done = 0;
  const size_t first = next_;
  while (done < bytes) {
    while (issued < bytes && issued - done < pieces_.size() * kPieceBytes) {
      const size_t count = std::min(kPieceBytes, bytes - issued);
      Piece& piece = take();
      check_cuda(cudaMemcpyAsync(piece.memory, static_cast<const std::byte*>(source) + issued, count,
                                 cudaMemcpyDeviceToHost, stream),
                 "copy to the host");
      check_cuda(cudaEventRecord(piece.copied, stream), "event");
      issued += count;
    }
    const Piece& piece = pieces_[(first + done / kPieceBytes) % pieces_.size()];
    const size_t count = std::min(kPieceBytes, bytes - done);
    wait_for(piece.copied, "copy to the host");
    std::memcpy(static_cast<std::byte*>(destination) + done, piece.memory, count);
    done += count;
  }
}

namespace {

class EventMarker final : public Marker {
 public:
  EventMarker(cudaStream_t stream, bool keeps_time) : stream_(stream) {
    check_cuda(cudaEventCreateWithFlags(&event_, keeps_time ? cudaEventDefault : cudaEventDisableTiming),
               "event");
  }
  ~EventMarker() override { cudaEventDestroy(event_); }
  EventMarker(const EventMarker&) = delete;
  EventMarker& operator=(const EventMarker&) = delete;

  void set() override {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream_, &capture), "event");
    is_set_ = capture == cudaStreamCaptureStatusNone;
    if (is_set_) check_cuda(cudaEventRecord(event_, stream_), "event");
  }
  bool passed() const override { return !is_set_ || has_passed(event_, "event"); }
  void wait() const override {
    if (is_set_) wait_for(event_, "event");
  }
  void hold(Backend& queue) const override {
    if (!is_set_) return;
    check_cuda(cudaStreamWaitEvent(static_cast<cudaStream_t>(queue.native_queue()), event_, 0), "wait");
  }
  double seconds_since(const Marker& earlier) const override {
    const auto& begin = static_cast<const EventMarker&>(earlier);
    if (!is_set_ || !begin.is_set_) return 0.0;
    float milliseconds = 0.0f;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin.event_, event_), "event");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t event_ = nullptr;
  bool is_set_ = false;
};

}  // namespace

void* CudaBackend::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  make_current();
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the runtime would report it again at the next launch
    return nullptr;
  }
  check_cuda(status, "allocate");
  return pointer;
}

void CudaBackend::release(void* pointer, size_t) noexcept {
  cudaFree(pointer);
}

MemoryRoom CudaBackend::memory_room() const {
  make_current();
  MemoryRoom room;
  check_cuda(cudaMemGetInfo(&room.free, &room.total), "memory");
  return room;
}

void CudaBackend::copy(void* destination, const void* source, size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, stream()), "copy");
}

void CudaBackend::copy_from_host(void* destination, const void* source, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  pinned().upload(destination, source, bytes, stream());
}

void CudaBackend::copy_to_host(void* destination, const void* source, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  pinned().download(destination, source, bytes, stream());
}

void* CudaBackend::allocate_pinned(size_t bytes) {
  if (bytes == 0) return nullptr;
  make_current();
  void* pointer = nullptr;
  const cudaError_t status = cudaMallocHost(&pointer, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(ErrorKind::kUsage, "memory: no room for " + std::to_string((bytes + (size_t{1} << 20) - 1) >> 20) +
                                " MiB of pinned host memory for a step's inputs; a smaller "
                                "train.micro_batch_size and fewer train.micro_batches need less");
  }
  check_cuda(status, "pinned memory");
  return pointer;
}

void CudaBackend::release_pinned(void* pointer) noexcept {
  cudaFreeHost(pointer);
}

void CudaBackend::copy_from_pinned(void* destination, const void* source, size_t bytes) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyHostToDevice, stream()),
             "copy to the device");
}

PinnedRing& CudaBackend::pinned() {
  make_current();
  if (!pinned_) pinned_ = std::make_unique<PinnedRing>();
  return *pinned_;
}

void CudaBackend::synchronize() {
  wait_for_device([this] { return is_done(cudaStreamQuery(stream()), "synchronize"); },
                  [this] { check_cuda(cudaStreamSynchronize(stream()), "synchronize"); });
}

Backend& CudaBackend::beside(Queue queue, std::unique_ptr<CudaBackend>& instance) {
  if (queue_ != Queue::kComputation) return *this;
  const std::lock_guard lock(mutex_);
  if (!instance) {
    instance = std::make_unique<CudaBackend>(device_, queue, plans_);
    instance->recorded_ = recorded_ && queue == Queue::kLane;
  }
  return *instance;
}

Backend& CudaBackend::lane() {
  return beside(Queue::kLane, lane_);
}

Backend& CudaBackend::copies() {
  return beside(Queue::kCopies, copies_);
}

std::unique_ptr<Marker> CudaBackend::marker(bool keeps_time) {
  return std::make_unique<EventMarker>(stream(), keeps_time);
}

void CudaBackend::wait_for(Backend& other) {
  auto* const queue = dynamic_cast<CudaBackend*>(&other);
  if (queue == nullptr || queue->device_ != device_) {
    fail(ErrorKind::kInternal,
         "wait_for: both queues must be of one device: " + description() + " and " + other.description());
  }
  if (queue == this) return;
  make_current();
  check_cuda(cudaEventRecord(queue->issued_, queue->stream_), "event");
  check_cuda(cudaStreamWaitEvent(stream_, queue->issued_, 0), "wait");
}

void* CudaBackend::native_queue() {
  return stream();
}

void* CudaBackend::require(size_t bytes, const char* purpose) {
  void* memory = allocate(bytes);
  if (memory == nullptr) {
    give_back_idle_memory();
    memory = allocate(bytes);
  }
  if (memory == nullptr) {
    const auto mebibytes = [](size_t count) { return std::to_string(count >> 20) + " MiB"; };
    const MemoryRoom room = memory_room();
    fail(ErrorKind::kUsage, "memory: GPU " + std::to_string(device_) + ": " + op_prefix() + "no room for " +
                                mebibytes(bytes + (size_t{1} << 20) - 1) + " of " + purpose + ": " +
                                mebibytes(room.free) + " of " + mebibytes(room.total) +
                                " are free; a smaller train.micro_batch_size, train.recompute_every, "
                                "precision.compute = \"bf16\" and parallel.shard_optimizer need less");
  }
  return memory;
}

void CudaBackend::outgrow(void*& memory) {
  if (recorded_) {
    outgrown_.push_back(memory);
  } else {
    release(memory, 0);  // waits for what still uses it
  }
  memory = nullptr;
}

void* CudaBackend::scratch_bytes(size_t bytes) {
  if (bytes > scratch_bytes_) {
    make_current();
    outgrow(scratch_);
    scratch_bytes_ = 0;
    constexpr size_t kStep = size_t{2} << 20;
    const size_t rounded = (bytes + kStep - 1) / kStep * kStep;
    scratch_ = require(rounded, "working memory of a kernel");
    scratch_bytes_ = rounded;
  }
  return scratch_;
}

}  // namespace lockstep
