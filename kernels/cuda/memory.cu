// Memory and queues of a GPU: allocation, copies, waiting.
#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/idle_memory.h"
#include "core/op_scope.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/pinned_ring.h"

namespace lockstep {

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
  check_cuda(cudaEventSynchronize(piece.copied), "copy");
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
    check_cuda(cudaEventSynchronize(piece.copied), "copy to the host");
    std::memcpy(static_cast<std::byte*>(destination) + done, piece.memory, count);
    done += count;
  }
}

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

PinnedRing& CudaBackend::pinned() {
  make_current();
  if (!pinned_) pinned_ = std::make_unique<PinnedRing>();
  return *pinned_;
}

void CudaBackend::synchronize() {
  check_cuda(cudaStreamSynchronize(stream()), "synchronize");
}

Backend& CudaBackend::lane() {
  if (is_lane_) return *this;
  const std::lock_guard lock(mutex_);
  if (!lane_) lane_ = std::make_unique<CudaBackend>(device_, true);
  return *lane_;
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
    fail(ErrorKind::kUsage, "memory: GPU " + std::to_string(device_) + ": " + op_prefix() +
                                "no room for " + mebibytes(bytes + (size_t{1} << 20) - 1) + " of " + purpose + ": " +
                                mebibytes(room.free) + " of " + mebibytes(room.total) +
                                " are free; a smaller train.micro_batch_size, train.recompute_every, "
                                "precision.compute = \"bf16\" and parallel.shard_optimizer need less");
  }
  return memory;
}

void* CudaBackend::scratch_bytes(size_t bytes) {
  if (bytes > scratch_bytes_) {
    make_current();
    release(scratch_, scratch_bytes_);  // waits for what still uses it
    scratch_ = nullptr;
    scratch_bytes_ = 0;
    constexpr size_t kStep = size_t{2} << 20;
    const size_t rounded = (bytes + kStep - 1) / kStep * kStep;
    scratch_ = require(rounded, "working memory of a kernel");
    scratch_bytes_ = rounded;
  }
  return scratch_;
}

}  // namespace lockstep
