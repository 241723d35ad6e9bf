// A buffer of one block.
#include "hdf5/block_writer.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {

void BlockWriter::add(RawValues& file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto room = static_cast<size_t>(kBlockBytes) - buffer_.size();
    const auto piece = bytes.first(std::min(room, bytes.size()));
    buffer_.insert(buffer_.end(), piece.begin(), piece.end());
    if (std::ssize(buffer_) == kBlockBytes) flush(file);
    bytes = bytes.subspan(piece.size());
  }
}

void BlockWriter::flush(RawValues& file) {
  if (buffer_.empty()) return;
  if (written_ + std::ssize(buffer_) > array_.bytes)
    fail(ErrorKind::kInternal, fmt::format("{}: more than {} bytes of samples", path_, array_.bytes));
  file.write(array_.offset + written_, buffer_);
  digests_.push_back(digest_of(buffer_));
  written_ += std::ssize(buffer_);
  buffer_.clear();
}

}  // namespace lockstep
