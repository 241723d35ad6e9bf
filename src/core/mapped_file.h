// The bytes of a file in memory without being read: the system brings pages when they are touched, and
// processes that map the same file share them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

// A smaller file stays in the page cache once it has been read: nothing is gained by reading ahead.
inline constexpr int64_t kReadAheadBytes = int64_t{64} << 20;

// Several threads may use a mapping.
class MappedFile {
 public:
  // The first `length` bytes. Errors of `kind`: cannot be opened or mapped, shorter.
  MappedFile(const std::string& path, size_t length, ErrorKind kind);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {bytes_, length_}; }
  // Has the system read what of these bytes is not in memory; returns before they are there.
  void read_ahead(size_t begin, size_t end) const;
  // After bytes have been looked at: whether they were the file's. Error of the kind when the file has become
  // shorter meanwhile, or a page could not be read. Returns when the file was written to last, in
  // nanoseconds.
  int64_t require_readable() const;

 private:
  std::string path_;
  ErrorKind kind_;
  int file_ = -1;
  std::byte* bytes_ = nullptr;
  size_t length_;
  size_t place_ = 0;  // among the mappings that the signal's handler knows
};

// A page of a mapped file that is not there any more, or that the disk does not give, reads as zeros from now
// on, which require_readable() tells, where the system would end the process (SIGBUS). Other such signals go
// where they went before. Sets the signal's handler: for programs to call, as the command does.
void outlive_bus_errors();

}  // namespace lockstep
