// Buffers, the pages that guard them, and the handler that says which of them a fault hit.
#include "memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "fiber.h"
#include "scheduler.h"
#include "settings.h"

namespace cuda_on_cpu {

namespace {

constexpr size_t kAlignment = 256;      // of buffers, as cudaMalloc promises
constexpr size_t kTightAlignment = 16;  // of guarded ones, whose end matters more
// Live guarded buffers: each splits the address space in two, of which the system allows some 65,000 parts.
// Further buffers go without guards.
constexpr int kMaxGuarded = 25000;

struct Buffer {
  unsigned char* data = nullptr;
  size_t bytes = 0;
  unsigned char* region = nullptr;  // guard page, data pages, guard page; null when not guarded
  size_t region_bytes = 0;
  MemoryKind kind = MemoryKind::kDevice;
  int serial = 0;
  bool live = true;
};

struct Memory {
  std::map<uintptr_t, Buffer>
      buffers;  // by the first address of the region, or of the data; freed guarded ones too
  std::vector<const Buffer*>
      opened;  // under host=forbid, without a key: what has been touched since the memory was opened
  size_t device_bytes = 0;
  int guarded = 0;  // live ones of any kind
  int serial = 0;
  const char* accessed_by = nullptr;  // name of the innermost DeviceAccess
  unsigned char* reserved = nullptr;
  size_t reserved_bytes = 0, reserved_used = 0;
  unsigned char* dynamic_end = nullptr;
};

Memory& memory() {
  static auto* const instance = new Memory;
  return *instance;
}

size_t page_bytes() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
size_t rounded_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

// Address space for regions is handed out once and never again, so that a freed buffer stays inaccessible.
unsigned char* reserve(size_t bytes) {
  Memory& m = memory();
  if (m.reserved == nullptr) {
    m.reserved_bytes = size_t{256} << 30;
    void* address = MAP_FAILED;
    while (address == MAP_FAILED && (m.reserved_bytes /= 2) >= size_t{1} << 30) {
      address =
          mmap(nullptr, m.reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (address == MAP_FAILED) stop("no address space for guarded memory");
    m.reserved = static_cast<unsigned char*>(address);
  }
  if (bytes > m.reserved_bytes - m.reserved_used) stop("guard=1: no address space left");
  unsigned char* const region = m.reserved + m.reserved_used;
  m.reserved_used += bytes;
  return region;
}

// The protection key of device memory under host=forbid (pkeys(7)): with it a register of each thread says
// whether that may access it. -1 where processor or system have none: then the protection of a buffer's pages
// is changed, for the whole process, when a thread that may access it touches it.
int device_key() {
  static const int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  return settings().keys ? key : -1;
}
thread_local bool may_access = false;  // this thread, device memory

void protect(const Buffer& buffer, int protection, int key) {
  const size_t page = page_bytes();
  if (pkey_mprotect(buffer.region + page, buffer.region_bytes - 2 * page, protection, key) != 0) {
    stop("guard=1: mprotect failed; too many buffers for the system?");
  }
}
// Without a key but that of all memory.
void protect(const Buffer& buffer, int protection) {
  protect(buffer, protection, device_key() < 0 ? -1 : 0);
}

void open_device_memory() {
  if (!may_access && device_key() >= 0) pkey_set(device_key(), 0);
  memory().opened.reserve(kMaxGuarded);  // nothing may be allocated where a fault is handled
  may_access = true;
}

// Whether it was closed to a thread that may access it, and is open now.
bool open(const Buffer& buffer) {
  if (!may_access || device_key() >= 0 || !settings().forbid_host || !buffer.live ||
      buffer.region == nullptr || buffer.kind != MemoryKind::kDevice) {
    return false;
  }
  std::vector<const Buffer*>& opened = memory().opened;
  if (std::find(opened.begin(), opened.end(), &buffer) != opened.end()) return false;
  protect(buffer, PROT_READ | PROT_WRITE);
  opened.push_back(&buffer);
  return true;
}

// A guarded buffer that ends at its last data page's end, up to `alignment`.
Buffer guarded(size_t bytes, size_t alignment) {
  const size_t page = page_bytes();
  Buffer buffer;
  buffer.bytes = bytes;
  buffer.region_bytes = rounded_up(bytes == 0 ? 1 : bytes, page) + 2 * page;
  buffer.region = reserve(buffer.region_bytes);
  protect(buffer, PROT_READ | PROT_WRITE);
  buffer.data = buffer.region + buffer.region_bytes - page - rounded_up(bytes, alignment);
  return buffer;
}

// The buffer whose region holds the address, freed ones and guard pages included; null for none.
const Buffer* region_at(const void* address) {
  const auto& buffers = memory().buffers;
  auto next = buffers.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == buffers.begin()) return nullptr;
  const Buffer& buffer = std::prev(next)->second;
  const auto* const end =
      buffer.region != nullptr ? buffer.region + buffer.region_bytes : buffer.data + buffer.bytes;
  return static_cast<const unsigned char*>(address) < end ? &buffer : nullptr;
}

const char* name_of(MemoryKind kind) {
  return kind == MemoryKind::kDevice ? "device memory" : "pinned memory";
}

struct sigaction previous_action;

void on_fault(int signal, siginfo_t* information, void*) {
  const auto* const address = static_cast<const unsigned char*>(information->si_addr);
  if (const Buffer* const b = region_at(address); b != nullptr && address >= b->region + page_bytes() &&
                                                  address < b->region + b->region_bytes - page_bytes() &&
                                                  open(*b)) {
    return;
  }
  const char* const by = memory().accessed_by;
  const std::string where = !position().empty() ? position() : by != nullptr ? by : "host code";
  if (const Buffer* const b = region_at(address); b != nullptr) {
    char what[160];
    if (!b->live) {
      std::snprintf(what, sizeof(what), "byte %td of buffer %d, which was freed", address - b->data,
                    b->serial);
    } else if (address < b->data) {
      std::snprintf(what, sizeof(what), "%td bytes before buffer %d", b->data - address, b->serial);
    } else if (address >= b->data + b->bytes) {
      std::snprintf(what, sizeof(what), "%td bytes past the end of buffer %d", address - (b->data + b->bytes),
                    b->serial);
    } else {
      std::snprintf(what, sizeof(what), "byte %td of buffer %d outside kernels and copies", address - b->data,
                    b->serial);
    }
    stop("%s touches %s (%zu bytes of %s)", where.c_str(), what, b->bytes, name_of(b->kind));
  }
  if (!position().empty()) {
    std::fprintf(
        stderr,
        "cuda_on_cpu: %s touches %p, which is in no buffer: shared memory's end, or a thread's stack\n",
        where.c_str(), static_cast<const void*>(address));
  }
  // What the process would have done without us happens when the instruction is tried again.
  sigaction(signal, &previous_action, nullptr);
}

}  // namespace

// Not memset: the thread sanitizer would take it for an access.
void poison(void* destination, size_t bytes) {
#if defined(__x86_64__)
  asm volatile("rep stosb" : "+D"(destination), "+c"(bytes) : "a"(kPoison) : "memory");
#else
  auto* const begin = static_cast<volatile unsigned char*>(destination);
  for (size_t i = 0; i < bytes; ++i) begin[i] = kPoison;
#endif
}

Location locate(const void* address) {
  const auto* const a = static_cast<const unsigned char*>(address);
  const Buffer* const buffer = region_at(address);
  if (buffer == nullptr || !buffer->live || a < buffer->data || a >= buffer->data + buffer->bytes) return {};
  return {buffer->kind, static_cast<size_t>(a - buffer->data), buffer->bytes};
}

void* allocate_buffer(MemoryKind kind, size_t bytes) {
  watch_faults();
  Memory& m = memory();
  if (kind == MemoryKind::kDevice && bytes > settings().memory_bytes - m.device_bytes) return nullptr;
  Buffer buffer;
  if (settings().guard && m.guarded < kMaxGuarded) {
    ++m.guarded;
    buffer = guarded(bytes, kTightAlignment);
    poison(buffer.region + page_bytes(), buffer.region_bytes - 2 * page_bytes());
  } else {
    buffer.bytes = bytes;
    buffer.data = static_cast<unsigned char*>(
        std::aligned_alloc(kAlignment, rounded_up(bytes == 0 ? 1 : bytes, kAlignment)));
    if (buffer.data == nullptr) return nullptr;
    poison(buffer.data, bytes);
  }
  buffer.kind = kind;
  buffer.serial = ++m.serial;
  if (kind == MemoryKind::kDevice) {
    m.device_bytes += bytes;
    if (settings().forbid_host && buffer.region != nullptr) {
      if (device_key() >= 0) {
        protect(buffer, PROT_READ | PROT_WRITE, device_key());
      } else {
        protect(buffer, PROT_NONE);
      }
    }
  }
  const unsigned char* const key = buffer.region != nullptr ? buffer.region : buffer.data;
  m.buffers[reinterpret_cast<uintptr_t>(key)] = buffer;
  return buffer.data;
}

bool free_buffer(MemoryKind kind, void* pointer) {
  Memory& m = memory();
  const Buffer* const found = region_at(pointer);
  if (found == nullptr || found->data != pointer || found->kind != kind || !found->live) return false;
  if (kind == MemoryKind::kDevice) m.device_bytes -= found->bytes;
  const unsigned char* const key = found->region != nullptr ? found->region : found->data;
  const auto entry = m.buffers.find(reinterpret_cast<uintptr_t>(key));
  Buffer& buffer = entry->second;
  if (buffer.region == nullptr) {
    std::free(buffer.data);
    m.buffers.erase(entry);
    return true;
  }
  std::erase(m.opened, &buffer);
  --m.guarded;
  // Alignment leaves a few bytes between the end and the guard page.
  protect(buffer, PROT_READ | PROT_WRITE);
  const unsigned char* const end = buffer.region + buffer.region_bytes - page_bytes();
  for (const unsigned char* byte = buffer.data + buffer.bytes; byte < end; ++byte) {
    if (*byte != kPoison) {
      stop("something wrote %td bytes past the end of buffer %d (%zu bytes of %s)",
           byte - (buffer.data + buffer.bytes), buffer.serial, buffer.bytes, name_of(kind));
    }
  }
  // New pages instead of protected old ones: those would never merge with their neighbours, and the system
  // counts them.
  if (mmap(buffer.region, buffer.region_bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    stop("guard=1: mmap failed");
  }
  buffer.live = false;
  return true;
}

size_t device_bytes_in_use() {
  return memory().device_bytes;
}

unsigned char* make_shared_site(size_t bytes) {
  if (kRaceCheck || settings().guard) return guarded(bytes, kTightAlignment).data;
  return static_cast<unsigned char*>(std::aligned_alloc(64, rounded_up(bytes, 64)));
}

unsigned char* dynamic_shared_of(size_t bytes) {
  Memory& m = memory();
  if (m.dynamic_end == nullptr) {
    const Buffer buffer = guarded(kSharedBytesOptIn, kTightAlignment);
    m.dynamic_end = buffer.data + rounded_up(kSharedBytesOptIn, kTightAlignment);
  }
  return m.dynamic_end - rounded_up(bytes, kTightAlignment);
}

void forget_accesses(unsigned char* begin, size_t bytes) {
  const size_t page = page_bytes();
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / page * page;
  const size_t length = rounded_up(reinterpret_cast<uintptr_t>(begin) + bytes, page) - first;
  // The sanitizer takes new pages for memory that nobody has touched.
  if (mmap(reinterpret_cast<void*>(first), length, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    stop("no memory for shared memory");
  }
}

DeviceAccess::DeviceAccess(const char* name) : outer_(memory().accessed_by) {
  memory().accessed_by = name;
  if (settings().forbid_host) open_device_memory();
}
DeviceAccess::~DeviceAccess() {
  memory().accessed_by = outer_;
}

void close_device_memory() {
  if (!may_access) return;
  may_access = false;
  if (device_key() >= 0) pkey_set(device_key(), PKEY_DISABLE_ACCESS);
  for (const Buffer* buffer : memory().opened) protect(*buffer, PROT_NONE);
  memory().opened.clear();
}

void open_to_system_calls(const void* address) {
  if (const Buffer* const buffer = region_at(address); buffer != nullptr) open(*buffer);
}

void watch_faults() {
  // The handler needs a stack of its own: a fault may be the overflow of a thread's.
  thread_local const bool has_stack = [] {
    constexpr size_t kBytes = 64 << 10;
    static thread_local unsigned char stack[kBytes];
    stack_t alternate = {};
    stack_t current = {};
    if (sigaltstack(nullptr, &current) == 0 && (current.ss_flags & SS_DISABLE) == 0) return true;
    alternate.ss_sp = stack;
    alternate.ss_size = kBytes;
    return sigaltstack(&alternate, nullptr) == 0;
  }();
  static const bool installed = [] {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    return sigaction(SIGSEGV, &action, &previous_action) == 0;
  }();
  static_cast<void>(has_stack);
  static_cast<void>(installed);
}

}  // namespace cuda_on_cpu
