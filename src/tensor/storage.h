// Reference-counted device memory behind tensors, and the caching allocator it comes from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>

#include "lockstep/kernels/backend.h"

namespace lockstep {

// Of the integers in a block of memory.
struct IndexRange {
  int32_t least = 0, largest = 0;
};

// One block of memory of one backend. Returned to the allocator's cache when the last tensor lets go.
class Storage {
 public:
  Storage(Backend& backend, size_t bytes);
  // Memory of somebody else, of which a part is kept.
  Storage(Backend& backend, std::shared_ptr<std::byte> memory, size_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  Backend& backend() const { return *backend_; }
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  // The range of its integers where the host that wrote them has seen it, so that checking indices does not
  // wait for a device. Forgotten with the next access for writing.
  const std::optional<IndexRange>& index_range() const { return index_range_; }
  void set_index_range(const IndexRange& range) { index_range_ = range; }

  // Whether nobody has had access for writing since the last watch(); false when there was none.
  bool unchanged() const { return unchanged_; }
  void watch() { unchanged_ = true; }

  // Before every access for writing. Several threads may write to a block of which there is nothing to
  // forget.
  void forget() {
    if (index_range_) index_range_.reset();
    if (unchanged_) unchanged_ = false;
  }

 private:
  Backend* backend_;
  size_t bytes_;
  std::shared_ptr<std::byte> foreign_;  // null where the memory is the allocator's
  std::byte* data_;
  std::optional<IndexRange> index_range_;
  bool unchanged_ = false;
};

struct AllocatorStatistics {
  size_t bytes_in_use = 0;  // held by live tensors, rounded to size classes
  size_t peak_bytes = 0;    // the largest bytes_in_use since the last reset
  size_t cached_bytes = 0;  // kept for reuse, by recordings or by anybody
};
AllocatorStatistics allocator_statistics();
void reset_allocator_peak();
// Keeps the memory of recorded work (Backend::begin_recording) for it alone: blocks that were taken or freed
// between begin() and end() go to nobody else until the object is gone, so that recordings may write to them
// whenever they are replayed. One object serves all recordings that are never replayed at the same time. Of
// one thread; none inside of another.
class RecordedMemory {
 public:
  RecordedMemory() = default;
  ~RecordedMemory();
  RecordedMemory(const RecordedMemory&) = delete;
  RecordedMemory& operator=(const RecordedMemory&) = delete;
  // Error (kUsage) under LOCKSTEP_ALLOCATOR=poison.
  void begin();
  void end();

 private:
  friend class CachingAllocator;
  struct Block {
    Backend* backend;
    size_t index;  // of its class
    bool free = false;
  };
  std::unordered_map<std::byte*, Block> blocks_;
};
// Gives cached blocks back to the backend.
void release_cached_memory();

}  // namespace lockstep
