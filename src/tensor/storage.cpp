// Caching allocator: blocks are rounded to size classes and kept in free lists, so that a training step in
// its steady state asks the backend for nothing.
#include "lockstep/tensor/storage.h"

#include <fmt/format.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/idle_memory.h"
#include "lockstep/core/op_scope.h"

namespace lockstep {

namespace {

// Classes: four per power of two from 64 bytes, so that rounding wastes at most a quarter.
constexpr size_t kSmallest = 64;

size_t class_of(size_t bytes) {
  if (bytes <= kSmallest) return 0;
  const auto exponent = static_cast<size_t>(std::bit_width(bytes - 1)) - 1;  // 2^exponent <= bytes - 1
  const size_t quarter = (bytes - 1) >> (exponent - 2) & 3;
  return (exponent - 6) * 4 + quarter + 1;
}

size_t bytes_of_class(size_t index) {
  if (index == 0) return kSmallest;
  const size_t exponent = (index - 1) / 4 + 6;
  const size_t quarter = (index - 1) % 4;
  return (size_t{4} + quarter + 1) << (exponent - 2);
}

// LOCKSTEP_ALLOCATOR=poison: no cache, and every block starts out as NaN bytes, so that reading what was
// never written shows and address checkers see each block's true extent.
bool poisoning() {
  static const bool enabled = [] {
    const char* value = std::getenv("LOCKSTEP_ALLOCATOR");
    return value != nullptr && std::string_view(value) == "poison";
  }();
  return enabled;
}

std::string mebibytes(size_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

class CachingAllocator {
 public:
  std::byte* allocate(Backend& backend, size_t bytes) {
    const size_t index = class_of(bytes);
    const size_t rounded = poisoning() ? bytes : bytes_of_class(index);
    const std::lock_guard lock(mutex_);
    std::byte* block = nullptr;
    if (recorded_ != nullptr) block = reuse_recorded(backend, index);
    if (block == nullptr && !poisoning()) {
      std::vector<std::byte*>& list = list_of(backend, index);
      if (!list.empty()) {
        block = list.back();
        list.pop_back();
        statistics_.cached_bytes -= rounded;
      }
    }
    if (block == nullptr) block = new_block(backend, rounded);
    if (recorded_ != nullptr) keep_for(*recorded_, backend, index, block).free = false;
    take_note(rounded);
    if (poisoning()) backend.fill(DType::kU8, static_cast<int64_t>(bytes), block, 255.0);
    return block;
  }

  void release(Backend& backend, std::byte* block, size_t bytes) {
    const size_t index = class_of(bytes);
    const size_t rounded = poisoning() ? bytes : bytes_of_class(index);
    const std::lock_guard lock(mutex_);
    statistics_.bytes_in_use -= rounded;
    // Blocks of an earlier recording stay with it, those that a recording sees freed with that one.
    const auto owner = owners_.find(block);
    RecordedMemory* const keeper = owner != owners_.end() ? owner->second : recorded_;
    if (keeper != nullptr) {
      keep_for(*keeper, backend, index, block).free = true;
      statistics_.cached_bytes += rounded;
      return;
    }
    if (poisoning()) {
      backend.release(block, rounded);
      return;
    }
    list_of(backend, index).push_back(block);
    statistics_.cached_bytes += rounded;
  }

  // Of memory that tensors have from elsewhere.
  void count(size_t bytes) {
    const std::lock_guard lock(mutex_);
    take_note(bytes);
  }
  void discount(size_t bytes) {
    const std::lock_guard lock(mutex_);
    statistics_.bytes_in_use -= bytes;
  }

  void release_cached() {
    const std::lock_guard lock(mutex_);
    empty_lists();
  }

  void begin_recording(RecordedMemory& memory) {
    const std::lock_guard lock(mutex_);
    if (recorded_ != nullptr) fail(ErrorKind::kInternal, "memory: a recording inside of another");
    if (poisoning()) {
      fail(ErrorKind::kUsage,
           "LOCKSTEP_ALLOCATOR=poison: every tensor has new memory, so that nothing can be recorded");
    }
    recorded_ = &memory;
  }
  void end_recording(const RecordedMemory& memory) {
    const std::lock_guard lock(mutex_);
    if (recorded_ == &memory) recorded_ = nullptr;
  }
  // What is free of it becomes everybody's again; what tensors still hold does when they let go.
  void give_back(RecordedMemory& memory) {
    const std::lock_guard lock(mutex_);
    for (const auto& [block, kept] : memory.blocks_) {
      owners_.erase(block);
      if (!kept.free) continue;
      list_of(*kept.backend, kept.index).push_back(block);
    }
    memory.blocks_.clear();
  }

  AllocatorStatistics statistics() {
    const std::lock_guard lock(mutex_);
    return statistics_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    statistics_.peak_bytes = statistics_.bytes_in_use;
  }

 private:
  struct Lists {
    Backend* backend;
    std::vector<std::vector<std::byte*>> free;
  };

  void take_note(size_t bytes) {
    statistics_.bytes_in_use += bytes;
    if (statistics_.bytes_in_use > statistics_.peak_bytes) statistics_.peak_bytes = statistics_.bytes_in_use;
  }

  std::byte* reuse_recorded(const Backend& backend, size_t index) {
    for (auto& [block, kept] : recorded_->blocks_) {
      if (!kept.free || kept.index != index || kept.backend != &backend) continue;
      statistics_.cached_bytes -= bytes_of_class(index);
      return block;
    }
    return nullptr;
  }
  RecordedMemory::Block& keep_for(RecordedMemory& memory, Backend& backend, size_t index, std::byte* block) {
    owners_[block] = &memory;
    return memory.blocks_.insert({block, {&backend, index}}).first->second;
  }

  std::vector<std::byte*>& list_of(Backend& backend, size_t index) {
    for (Lists& lists : lists_) {
      if (lists.backend == &backend) {
        if (lists.free.size() <= index) lists.free.resize(index + 1);
        return lists.free[index];
      }
    }
    lists_.push_back({&backend, {}});
    lists_.back().free.resize(index + 1);
    return lists_.back().free[index];
  }

  void empty_lists() {
    for (Lists& lists : lists_) {
      for (size_t index = 0; index < lists.free.size(); ++index) {
        for (std::byte* block : lists.free[index]) lists.backend->release(block, bytes_of_class(index));
        statistics_.cached_bytes -= lists.free[index].size() * bytes_of_class(index);
        lists.free[index].clear();
      }
    }
  }

  // Blocks of other sizes make room when the device has none left. Error (kUsage): which op asked, and which
  // settings make room.
  std::byte* new_block(Backend& backend, size_t bytes) {
    size_t given_back = 0;
    void* block = backend.allocate(bytes);
    if (block == nullptr && statistics_.cached_bytes > 0) {
      given_back = statistics_.cached_bytes;
      empty_lists();
      given_back -= statistics_.cached_bytes;
      block = backend.allocate(bytes);
    }
    if (block == nullptr) {
      const MemoryRoom room = backend.memory_room();
      fail(ErrorKind::kUsage,
           fmt::format(
               "memory: {}: {}no room for {} more: tensors hold {}{}, {} cached were given back, {} of the "
               "device's {} are "
               "free; smaller train.micro_batch_size and train.linearization_mb, train.recompute_every, "
               "precision.compute = \"bf16\" and parallel.shard_optimizer need less",
               backend.description(), op_prefix(), mebibytes(bytes), mebibytes(statistics_.bytes_in_use),
               owners_.empty()
                   ? ""
                   : fmt::format(", device.cuda_graph keeps {}", mebibytes(statistics_.cached_bytes)),
               mebibytes(given_back), mebibytes(room.free), mebibytes(room.total)));
    }
    return static_cast<std::byte*>(block);
  }

  std::mutex mutex_;
  std::vector<Lists> lists_;  // a process has one or two backends
  AllocatorStatistics statistics_;
  RecordedMemory* recorded_ = nullptr;                            // that sees what happens now
  std::unordered_map<const std::byte*, RecordedMemory*> owners_;  // of blocks that recordings keep
};

namespace {

// Never destroyed: tensors in static storage may outlive any order of destruction we could choose.
CachingAllocator& allocator() {
  static auto* const instance = [] {
    idle_memory_owner() = release_cached_memory;  // working memory of kernels comes from the same device
    return new CachingAllocator;
  }();
  return *instance;
}

}  // namespace

Storage::Storage(Backend& backend, size_t bytes)
    : backend_(&backend), bytes_(bytes), data_(bytes == 0 ? nullptr : allocator().allocate(backend, bytes)) {}

Storage::Storage(Backend& backend, std::shared_ptr<std::byte> memory, size_t bytes)
    : backend_(&backend), bytes_(bytes), foreign_(std::move(memory)), data_(foreign_.get()) {
  allocator().count(bytes_);
}

Storage::~Storage() {
  if (foreign_ != nullptr) {
    allocator().discount(bytes_);
  } else if (data_ != nullptr) {
    allocator().release(*backend_, data_, bytes_);
  }
}

void RecordedMemory::begin() {
  allocator().begin_recording(*this);
}
RecordedMemory::~RecordedMemory() {
  end();
  allocator().give_back(*this);
}
void RecordedMemory::end() {
  allocator().end_recording(*this);
}

AllocatorStatistics allocator_statistics() {
  return allocator().statistics();
}
void reset_allocator_peak() {
  allocator().reset_peak();
}
void release_cached_memory() {
  allocator().release_cached();
}

}  // namespace lockstep
