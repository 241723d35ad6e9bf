// Pinned host memory through which arrays of pageable memory travel to and from a device.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

namespace lockstep {

// A few pieces used in turn: copies to the device do not wait for it, and long copies fill one piece while
// others travel.
class PinnedRing {
 public:
  PinnedRing();
  ~PinnedRing();
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;

  // Queues the copy; `source` may change when the call returns.
  void upload(void* destination, const void* source, size_t bytes, cudaStream_t stream);
  // Copies what `source` holds when the stream gets there, and waits for it.
  void download(void* destination, const void* source, size_t bytes, cudaStream_t stream);

 private:
  static constexpr size_t kPieceBytes = size_t{1} << 20;
  struct Piece {
    std::byte* memory = nullptr;
    cudaEvent_t copied = nullptr;  // the last copy from or to it
  };
  // The next piece, its last copy done.
  Piece& take();

  std::array<Piece, 4> pieces_;
  size_t next_ = 0;
};

}  // namespace lockstep
