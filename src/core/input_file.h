// The bytes of a data file in order, plain, gzip- or zstd-compressed alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep {

inline constexpr const char* kStandardInput = "-";

// Errors are kData and name the file: missing, not a regular file, empty, unreadable, corrupted gzip or zstd
// stream.
class InputFile {
 public:
  // kPipe: whatever can be opened, standard input ("-") included, however much comes out of it.
  enum class Kind { kFile, kPipe };
  explicit InputFile(const std::string& path, Kind kind = Kind::kFile);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Up to `bytes` bytes; fewer only at the end.
  size_t read_up_to(void* bytes_out, size_t bytes);
  // Exactly `bytes` bytes that hold `what`; Error naming the offset when the file ends before.
  void read(void* bytes_out, size_t bytes, const char* what);
  // Error naming the offset unless everything has been read.
  void expect_end();

  const std::string& path() const { return path_; }
  // Bytes delivered so far (of the content, when compressed).
  int64_t offset() const { return offset_; }
  // Bytes of the file itself that it took, roughly.
  int64_t stored_offset() const;
  // No more content than this can follow from here: what is left of a plain file, or what the densest
  // compressed stream of the file's size could hold. A count in a header is checked against it before memory
  // is asked for.
  int64_t most_remaining() const { return most_bytes_ - offset_; }
  bool compressed() const { return compressed_; }

 private:
  struct Stream;
  struct Plain;
  struct Packed;
  struct Gzip;
  struct Zstd;

  std::string path_;
  std::unique_ptr<Stream> stream_;
  bool compressed_ = false;
  int64_t offset_ = 0;
  int64_t most_bytes_ = 0;
};

// Size in bytes of a regular file. Errors (kData): missing, not a regular file, empty.
int64_t checked_file_size(const std::string& path);

}  // namespace lockstep
