// Files without names, and how others open them.
#include "lockstep/comm/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>

namespace lockstep {

namespace {

constexpr char kName[] = "lockstep gradients";
constexpr size_t kHeaderBytes = 4096;

std::string reason(const char* call) {
  return fmt::format("{}: {}", call, std::strerror(errno));
}

// Memory of workers that are threads of this process is mapped once: what they do is then visible to
// whatever watches over threads.
struct OwnMemory {
  std::mutex mutex;
  std::map<std::array<uint64_t, 2>, std::weak_ptr<SharedMemory>> by_token;
};
OwnMemory& own_memory() {
  static auto* const memory = new OwnMemory;
  return *memory;
}

// A descriptor of the file behind the ticket; -1 where there is none.
int open_file(const SharedMemory::Ticket& ticket, std::string& why_not) {
  const std::string path = fmt::format("/proc/{}/fd/{}", ticket.process, ticket.descriptor);
  // Opening what something else has there, seen from another container, could do anything.
  std::array<char, 64> target{};
  if (::readlink(path.c_str(), target.data(), target.size() - 1) < 0) {
    why_not = reason(path.c_str());
    return -1;
  }
  if (std::string(target.data()).rfind(std::string("/memfd:") + kName, 0) != 0) {
    why_not = path + ": not the memory of a worker";
    return -1;
  }
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) why_not = reason(path.c_str());
  return file;
}

}  // namespace

struct SharedMemory::Header {
  std::array<uint64_t, 2> token;
  alignas(64) std::atomic<uint64_t> count;
};

std::shared_ptr<SharedMemory> SharedMemory::make(size_t bytes, std::string& why_not) {
  const size_t size = kHeaderBytes + bytes;
  // Where a process does not ignore the signal, growing beyond this ends it.
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && size > limit.rlim_cur) {
    why_not = fmt::format("{} bytes are more than ulimit -f allows", size);
    return nullptr;
  }
  Ticket ticket{::getpid(), ::memfd_create(kName, MFD_CLOEXEC), bytes, {}};
  const int file = static_cast<int>(ticket.descriptor);
  const auto give_up = [&](const char* call) {
    why_not = reason(call);
    if (file >= 0) ::close(file);
    return nullptr;
  };
  if (file < 0) return give_up("memfd_create");
  // Pages are taken when they are first used, as those of other memory are: files without names have no limit
  // of their own, and taking all of them here would let the system end processes where there are too few.
  if (::ftruncate(file, static_cast<off_t>(size)) != 0) return give_up("ftruncate");
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) return give_up("mmap");
  if (::getrandom(ticket.token.data(), sizeof ticket.token, 0) != sizeof ticket.token) {
    ::munmap(mapped, size);
    return give_up("getrandom");
  }
  auto* header = new (mapped) Header{ticket.token, {}};
  header->count.store(0, std::memory_order_relaxed);
  std::shared_ptr<SharedMemory> memory(new SharedMemory(ticket, mapped));
  const std::lock_guard lock(own_memory().mutex);
  own_memory().by_token[ticket.token] = memory;
  return memory;
}

std::shared_ptr<SharedMemory> SharedMemory::open(const Ticket& ticket, std::string& why_not) {
  if (ticket.process == ::getpid()) {
    const std::lock_guard lock(own_memory().mutex);
    const auto found = own_memory().by_token.find(ticket.token);
    if (found != own_memory().by_token.end()) {
      if (std::shared_ptr<SharedMemory> memory = found->second.lock()) return memory;
    }
  }
  const int file = open_file(ticket, why_not);
  if (file < 0) return nullptr;
  const size_t size = kHeaderBytes + ticket.bytes;
  struct stat status {};
  void* mapped = MAP_FAILED;
  if (::fstat(file, &status) == 0 && status.st_size == static_cast<off_t>(size)) {
    mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  ::close(file);
  if (mapped != MAP_FAILED && static_cast<Header*>(mapped)->token == ticket.token) {
    Ticket mine = ticket;
    mine.descriptor = -1;
    return std::shared_ptr<SharedMemory>(new SharedMemory(mine, mapped));
  }
  why_not = fmt::format("/proc/{}/fd/{}: another memory", ticket.process, ticket.descriptor);
  if (mapped != MAP_FAILED) ::munmap(mapped, size);
  return nullptr;
}

SharedMemory::~SharedMemory() {
  close();
  ::munmap(header_, kHeaderBytes + bytes());
  const std::lock_guard lock(own_memory().mutex);
  const auto found = own_memory().by_token.find(ticket_.token);
  if (found != own_memory().by_token.end() && found->second.expired()) own_memory().by_token.erase(found);
}

void SharedMemory::close() {
  const int file = static_cast<int>(std::exchange(ticket_.descriptor, -1));
  if (file >= 0) ::close(file);
}

std::byte* SharedMemory::data() const {
  return reinterpret_cast<std::byte*>(header_) + kHeaderBytes;
}

std::atomic<uint64_t>& SharedMemory::count() const {
  return header_->count;
}

}  // namespace lockstep
