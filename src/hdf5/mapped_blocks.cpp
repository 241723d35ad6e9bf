// Verifying blocks on first touch, of each version of the file.
#include "lockstep/hdf5/mapped_blocks.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>

namespace lockstep {

namespace {

// No time of a file.
constexpr int64_t kUnsettled = -1;

// Whether a later write would have another time: the system's clock of files goes by ticks.
bool settled(int64_t written) {
  constexpr int64_t kLongestTick = 10'000'000;  // nanoseconds
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::abs(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - written) > kLongestTick;
}

size_t end_of(const BlockedFile& content) {
  size_t end = 0;
  for (const BlockedArray& array : content.arrays)
    end = std::max(end, static_cast<size_t>(array.offset + array.bytes));
  return end;
}

}  // namespace

MappedBlocks::MappedBlocks(const std::string& path, BlockedFile content, ErrorKind kind)
    : content_(std::move(content)), file_(path, end_of(content_), kind), written_(file_.require_readable()) {
  size_t blocks = 0;
  for (const BlockedArray& array : content_.arrays) {
    first_blocks_.push_back(blocks);
    blocks += static_cast<size_t>(blocks_of(array.bytes));
  }
  verified_ = std::make_unique<std::atomic<uint32_t>[]>(blocks + 1);
}

std::span<const std::byte> MappedBlocks::array(int64_t i) const {
  const BlockedArray& array = content_.arrays[static_cast<size_t>(i)];
  return file_.bytes().subspan(static_cast<size_t>(array.offset), static_cast<size_t>(array.bytes));
}

std::optional<int64_t> MappedBlocks::first_damaged(int64_t i, int64_t begin, int64_t end) const {
  const std::span<const std::byte> bytes = array(i);
  // One that changes while it is looked at counts for what it was.
  const uint32_t version = version_;
  for (int64_t block = begin / kBlockBytes; block * kBlockBytes < end; ++block) {
    const size_t number = first_blocks_[static_cast<size_t>(i)] + static_cast<size_t>(block);
    if (verified_[number] == version) continue;
    const int64_t at = block * kBlockBytes, count = std::min(kBlockBytes, std::ssize(bytes) - at);
    read_ahead(i, at, at + count);
    if (digest_of(bytes.subspan(static_cast<size_t>(at), static_cast<size_t>(count))) !=
        content_.digests[number]) {
      file_.require_readable();
      return block;
    }
    verified_[number] = version;
  }
  return std::nullopt;
}

bool MappedBlocks::unchanged_since(uint32_t version) const {
  const int64_t now = file_.require_readable();
  if (now != written_) {
    const std::scoped_lock lock(changing_);
    if (now != written_) {
      ++version_;
      written_ = settled(now) ? now : kUnsettled;
    }
  }
  return version_ == version;
}

void MappedBlocks::read_ahead(int64_t i, int64_t begin, int64_t end) const {
  if (end <= begin) return;
  const int64_t offset = content_.arrays[static_cast<size_t>(i)].offset;
  // All of a block is needed where it is still to be verified.
  const size_t first_block = first_blocks_[static_cast<size_t>(i)];
  const int64_t from = begin / kBlockBytes, to = (end - 1) / kBlockBytes;
  if (!verified(first_block + static_cast<size_t>(from))) begin = from * kBlockBytes;
  if (!verified(first_block + static_cast<size_t>(to)))
    end = std::min((to + 1) * kBlockBytes, content_.arrays[static_cast<size_t>(i)].bytes);
  file_.read_ahead(static_cast<size_t>(offset + begin), static_cast<size_t>(offset + end));
}

}  // namespace lockstep
