// A file of another program in memory without being read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace lockstep {

// The file must not get shorter while it is mapped: reading behind its new end is SIGBUS.
class MappedFile {
 public:
  // Errors (kData): missing, no regular file, empty, cannot be mapped.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  int64_t size() const { return static_cast<int64_t>(size_); }
  // The integer that begins at this byte, little-endian, aligned or not. Inside of the file.
  template <class Integer>
  Integer at(int64_t offset) const {
    Integer value;
    std::memcpy(&value, data_ + offset, sizeof value);
    return value;
  }
  // Has the system read these bytes; returns before they are there.
  void read_ahead(int64_t offset, int64_t bytes) const;

 private:
  std::string path_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lockstep
