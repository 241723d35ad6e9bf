// Device memory, pinned memory and shared memory of the stand-in: where buffers lie, what guards them, and
// what a fault in them is called.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace cuda_on_cpu {

// New memory holds bytes of 0xFF: NaN in every floating type, and indices far out of bounds.
inline constexpr unsigned char kPoison = 0xFF;
void poison(void* memory, size_t bytes);

enum class MemoryKind { kPageable, kPinned, kDevice };

// The live buffer around an address, and where in it the address is.
struct Location {
  MemoryKind kind = MemoryKind::kPageable;
  size_t offset = 0;  // of the address in its buffer
  size_t bytes = 0;   // of the buffer
};
Location locate(const void* address);

// Null when the device has no room for it.
void* allocate_buffer(MemoryKind kind, size_t bytes);
// Answers false when `pointer` is not the begin of a live buffer of that kind.
bool free_buffer(MemoryKind kind, void* pointer);
size_t device_bytes_in_use();

// Memory for one declaration of static shared memory, for good: 16-byte aligned; its end is guarded under
// guard=1.
unsigned char* make_shared_site(size_t bytes);
// Dynamic shared memory of `bytes` bytes that ends at an inaccessible page (up to the alignment of 16).
unsigned char* dynamic_shared_of(size_t bytes);
// For the thread sanitizer: what was done to whole pages of shared memory so far is forgotten.
void forget_accesses(unsigned char* memory, size_t bytes);

// What touches device memory holds one, and the device's lock. Under host=forbid the memory then stays
// accessible to the thread until close_device_memory(): to change its protection is slow.
class DeviceAccess {
 public:
  explicit DeviceAccess(const char* name);  // of what accesses, for messages
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;

 private:
  const char* outer_;
};

void close_device_memory();
// The buffer there, which a system call is to read or write: one does not open what it touches.
void open_to_system_calls(const void* address);

// Makes faults say what they hit. Once a thread.
void watch_faults();

}  // namespace cuda_on_cpu
