// The arrays of a sealed file in memory without being read: mapped, and each block verified when it is used
// first.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "lockstep/core/error.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

// Workers of a host that map the same file share its pages. Several threads may use a mapping.
class MappedBlocks {
 public:
  // Errors of `kind`: cannot be opened or mapped.
  MappedBlocks(const std::string& path, BlockedFile content, ErrorKind kind);
  int64_t arrays() const { return std::ssize(content_.arrays); }
  // All of an array; only bytes that first_damaged() looked at are known to be right.
  std::span<const std::byte> array(int64_t i) const;
  std::span<const Digest> digests() const { return content_.digests; }
  // Verifies the blocks that hold bytes [begin, end) of array i, those that this process has not verified
  // yet. Returns the number of the first that is damaged, counted in the array. Errors as require_readable().
  std::optional<int64_t> first_damaged(int64_t i, int64_t begin, int64_t end) const;
  // MappedFile::require_readable(): for after blocks that were verified earlier have been read.
  void require_readable() const { file_.require_readable(); }
  // Has the system read what of these bytes is not in memory; returns before they are there.
  void read_ahead(int64_t i, int64_t begin, int64_t end) const;

 private:
  bool verified(size_t block) const {
    return (verified_[block / 64].load(std::memory_order_relaxed) >> (block % 64) & 1) != 0;
  }

  BlockedFile content_;
  std::vector<size_t> first_blocks_;  // of each array in the table
  MappedFile file_;
  std::unique_ptr<std::atomic<uint64_t>[]> verified_;  // a bit a block
};

}  // namespace lockstep
