// The arrays of a sealed file in memory without being read: mapped, and each block verified when it is used
// first, and anew once the file has been written to.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
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
  // Calls `copy`, which verifies blocks by first_damaged() and copies from them; again where the file has
  // been written to meanwhile. Errors as MappedFile::require_readable().
  template <class Copy>
  void read(const Copy& copy) const {
    for (;;) {
      const uint32_t version = version_;
      copy();
      if (unchanged_since(version)) return;
    }
  }
  // Verifies the blocks that hold bytes [begin, end) of array i, those that this process has not verified
  // yet. Returns the number of the first that is damaged, counted in the array. Errors as require_readable().
  std::optional<int64_t> first_damaged(int64_t i, int64_t begin, int64_t end) const;
  // Has the system read what of these bytes is not in memory; returns before they are there.
  void read_ahead(int64_t i, int64_t begin, int64_t end) const;

 private:
  bool verified(size_t block) const { return verified_[block] == version_; }
  // Whether nobody has written to the file since it was in that version. What was verified before counts no
  // more then.
  bool unchanged_since(uint32_t version) const;

  BlockedFile content_;
  std::vector<size_t> first_blocks_;  // of each array in the table
  MappedFile file_;
  mutable std::mutex changing_;
  mutable std::atomic<int64_t> written_;      // when somebody last has written to it, as far as is known
  mutable std::atomic<uint32_t> version_{1};  // one more each time
  std::unique_ptr<std::atomic<uint32_t>[]> verified_;  // by block: in which version; 0: in none
};

}  // namespace lockstep
