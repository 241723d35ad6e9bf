// mmap, madvise and a bitmap.
#include "lockstep/hdf5/mapped_blocks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace lockstep {

MappedBlocks::MappedBlocks(const std::string& path, BlockedFile content, ErrorKind kind)
    : content_(std::move(content)) {
  const auto refuse = [&](const char* what) {
    fail(kind, fmt::format("{}: {}: {}", path, what, std::generic_category().message(errno)));
  };
  size_t blocks = 0;
  for (const BlockedArray& array : content_.arrays) {
    first_blocks_.push_back(blocks);
    blocks += static_cast<size_t>(blocks_of(array.bytes));
    length_ = static_cast<size_t>(array.offset + array.bytes);
  }
  verified_ = std::make_unique<std::atomic<uint64_t>[]>(blocks / 64 + 1);
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse("cannot open");
  struct stat status {};
  const bool long_enough = ::fstat(file, &status) == 0 && static_cast<size_t>(status.st_size) >= length_;
  void* mapping = long_enough ? ::mmap(nullptr, length_, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  const int error = errno;
  ::close(file);
  if (!long_enough) fail(kind, path + ": has become shorter");
  errno = error;
  if (mapping == MAP_FAILED) refuse("cannot be mapped into memory");
  mapping_ = static_cast<std::byte*>(mapping);
  // Rows come in random order: what surrounds one is no guess at the next.
  ::madvise(mapping_, length_, MADV_RANDOM);
}

MappedBlocks::~MappedBlocks() {
  if (mapping_ != nullptr) ::munmap(mapping_, length_);
}

std::span<const std::byte> MappedBlocks::array(int64_t i) const {
  const BlockedArray& array = content_.arrays[static_cast<size_t>(i)];
  return {mapping_ + array.offset, static_cast<size_t>(array.bytes)};
}

std::optional<int64_t> MappedBlocks::first_damaged(int64_t i, int64_t begin, int64_t end) const {
  const std::span<const std::byte> bytes = array(i);
  for (int64_t block = begin / kBlockBytes; block * kBlockBytes < end; ++block) {
    const size_t number = first_blocks_[static_cast<size_t>(i)] + static_cast<size_t>(block);
    if (verified(number)) continue;
    const int64_t at = block * kBlockBytes, count = std::min(kBlockBytes, std::ssize(bytes) - at);
    read_ahead(i, at, at + count);
    if (digest_of(bytes.subspan(static_cast<size_t>(at), static_cast<size_t>(count))) !=
        content_.digests[number])
      return block;
    verified_[number / 64].fetch_or(uint64_t{1} << (number % 64), std::memory_order_relaxed);
  }
  return std::nullopt;
}

void MappedBlocks::read_ahead(int64_t i, int64_t begin, int64_t end) const {
  if (end <= begin) return;
  static const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t offset = content_.arrays[static_cast<size_t>(i)].offset;
  // All of a block is needed where it is still to be verified.
  const size_t first_block = first_blocks_[static_cast<size_t>(i)];
  const int64_t from = begin / kBlockBytes, to = (end - 1) / kBlockBytes;
  if (!verified(first_block + static_cast<size_t>(from))) begin = from * kBlockBytes;
  if (!verified(first_block + static_cast<size_t>(to)))
    end = std::min((to + 1) * kBlockBytes, content_.arrays[static_cast<size_t>(i)].bytes);
  const int64_t first = (offset + begin) / page * page;
  // Advice: where it fails, the pages come when they are touched.
  ::madvise(mapping_ + first, static_cast<size_t>(offset + end - first), MADV_WILLNEED);
}

}  // namespace lockstep
