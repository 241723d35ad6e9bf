// Reference-counted device memory behind tensors, and the caching allocator it comes from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/backend.h"

namespace lockstep {

// One block of memory of one backend. Returned to the allocator's cache when the last tensor lets go.
class Storage {
 public:
  Storage(Backend& backend, size_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  Backend& backend() const { return *backend_; }
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Backend* backend_;
  size_t bytes_;
  std::byte* data_;
};

struct AllocatorStatistics {
  size_t bytes_in_use = 0;  // held by live tensors, rounded to size classes
  size_t peak_bytes = 0;    // the largest bytes_in_use since the last reset
  size_t cached_bytes = 0;  // kept for reuse
};
AllocatorStatistics allocator_statistics();
void reset_allocator_peak();
// Gives cached blocks back to the backend.
void release_cached_memory();

}  // namespace lockstep
