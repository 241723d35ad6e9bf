// mmap and madvise.
#include "text/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"
#include "core/input_file.h"

namespace lockstep {

MappedFile::MappedFile(const std::string& path)
    : path_(path), size_(static_cast<size_t>(checked_file_size(path))) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(ErrorKind::kData, fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
  const int error = errno;
  ::close(file);
  if (mapping == MAP_FAILED)
    fail(ErrorKind::kData, fmt::format("{}: cannot be mapped into memory: {}", path, std::strerror(error)));
  data_ = static_cast<std::byte*>(mapping);
  // Windows come in random order: what surrounds one is no guess at the next.
  ::madvise(data_, size_, MADV_RANDOM);
}

MappedFile::~MappedFile() {
  ::munmap(data_, size_);
}

void MappedFile::read_ahead(int64_t offset, int64_t bytes) const {
  if (bytes <= 0) return;
  static const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t first = offset / page * page;
  // Advice: where it fails, the pages come when they are touched.
  ::madvise(data_ + first, static_cast<size_t>(offset + bytes - first), MADV_WILLNEED);
}

}  // namespace lockstep
