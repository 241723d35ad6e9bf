// Arrays of a sealed file that arrive in pieces of any size and are written, with their digests, in blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hdf5/raw_values.h"
#include "hdf5/sealed_file.h"

namespace lockstep {

class BlockWriter {
 public:
  // `path` must live as long.
  BlockWriter(const BlockedArray& array, const std::string& path) : array_(array), path_(path) {}

  // Errors: kInternal for more bytes than the array has, and those of RawValues::write.
  void add(RawValues& file, std::span<const std::byte> bytes);
  // Writes what has not filled a block; the last call.
  void flush(RawValues& file);
  bool complete() const { return written_ == array_.bytes; }
  const std::vector<Digest>& digests() const { return digests_; }

 private:
  BlockedArray array_;
  const std::string& path_;
  int64_t written_ = 0;
  std::vector<std::byte> buffer_;
  std::vector<Digest> digests_;
};

}  // namespace lockstep
