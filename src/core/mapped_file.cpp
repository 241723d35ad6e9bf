// mmap, and what becomes of its SIGBUS.
#include "lockstep/core/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <system_error>

namespace lockstep {

namespace {

// What the handler of the signal looks at: no lock, no allocation.
struct Mapping {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0}, end{0};  // empty while it is not in use
  std::atomic<bool> broken{false};
};
std::array<Mapping, 256> mappings;
struct sigaction previous {};

size_t page_bytes() {
  static const auto bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

void on_bus_error(int signal, siginfo_t* info, void*) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Mapping& mapping : mappings) {
    if (at < mapping.begin.load() || at >= mapping.end.load()) continue;
    mapping.broken = true;
    void* const page = static_cast<std::byte*>(info->si_addr) - at % page_bytes();
    const int error = errno;
    // The system call itself, which a handler may make; and what stands in for mmap under the thread
    // sanitizer would be a write that races with readers.
    const bool zeros = ::syscall(SYS_mmap, page, page_bytes(), PROT_READ,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1L, 0L) != -1;
    errno = error;
    if (zeros) return;
  }
  // Of nobody's mapping: the instruction is tried again, and whoever was asked before is asked.
  ::sigaction(SIGBUS, &previous, nullptr);
  if (info->si_code <= 0) ::raise(signal);  // sent by a process
}

}  // namespace

MappedFile::MappedFile(const std::string& path, size_t length, ErrorKind kind)
    : path_(path), kind_(kind), length_(length) {
  const auto refuse = [&](const std::string& what) {
    if (file_ >= 0) ::close(file_);
    fail(kind, fmt::format("{}: {}", path, what));
  };
  const auto reason = [] { return std::generic_category().message(errno); };
  file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file_ < 0) refuse("cannot open: " + reason());
  struct stat status {};
  if (::fstat(file_, &status) != 0 || static_cast<size_t>(status.st_size) < length)
    refuse("has become shorter");
  while (place_ < mappings.size() && mappings[place_].taken.exchange(true)) ++place_;
  if (place_ == mappings.size()) refuse(fmt::format("more than {} files are mapped", mappings.size()));
  Mapping& known = mappings[place_];
  void* mapping = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, file_, 0);
  if (mapping == MAP_FAILED) {
    const std::string why = reason();
    known.taken = false;
    refuse("cannot be mapped into memory: " + why);
  }
  bytes_ = static_cast<std::byte*>(mapping);
  // Rows come in random order: what surrounds one is no guess at the next.
  ::madvise(mapping, length, MADV_RANDOM);
  known.broken = false;
  known.begin = reinterpret_cast<uintptr_t>(bytes_);
  known.end = reinterpret_cast<uintptr_t>(bytes_) + length;
}

MappedFile::~MappedFile() {
  Mapping& known = mappings[place_];
  known.end = 0;
  known.begin = 0;
  ::munmap(bytes_, length_);
  ::close(file_);
  known.taken = false;
}

void MappedFile::read_ahead(size_t begin, size_t end) const {
  const size_t first = begin / page_bytes() * page_bytes();
  // Advice: where it fails, the pages come when they are touched.
  ::madvise(bytes_ + first, end - first, MADV_WILLNEED);
}

int64_t MappedFile::require_readable() const {
  // The rest of the last page that a shorter file still has reads as zeros without a signal.
  struct stat status {};
  const bool shorter = ::fstat(file_, &status) == 0 && static_cast<size_t>(status.st_size) < length_;
  constexpr int64_t kSecond = 1'000'000'000;
  if (!shorter && !mappings[place_].broken.load())
    return status.st_mtim.tv_sec * kSecond + status.st_mtim.tv_nsec;
  fail(kind_,
       fmt::format("{}: {}", path_,
                   shorter ? "has become shorter while it is in use" : "a part of it can no longer be read"));
}

void outlive_bus_errors() {
  page_bytes();  // asked for here, not in the handler
  struct sigaction action {};
  action.sa_sigaction = &on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  struct sigaction before {};
  ::sigaction(SIGBUS, &action, &before);
  if ((before.sa_flags & SA_SIGINFO) == 0 || before.sa_sigaction != &on_bus_error) previous = before;
}

}  // namespace lockstep
