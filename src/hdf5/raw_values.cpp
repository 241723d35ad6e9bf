// Positioned writes that leave nothing out.
#include "lockstep/hdf5/raw_values.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lockstep {

RawValues::RawValues(const std::string& path, ErrorKind kind)
    : path_(path), kind_(kind), descriptor_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
  if (descriptor_ < 0) fail(kind, fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
}

RawValues::~RawValues() {
  ::close(descriptor_);
}

void RawValues::write(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0)
      fail(kind_, fmt::format("{}: cannot write: {}", path_, std::strerror(count == 0 ? EIO : errno)));
    offset += count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

}  // namespace lockstep
