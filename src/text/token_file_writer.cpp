// Writing token files. How long the arrays become is known at the end alone, and HDF5 wants to know it at the
// beginning: they wait in nameless files beside the one that is made.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/unfinished_file.h"
#include "lockstep/hdf5/block_writer.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/raw_values.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/token_elements.h"
#include "lockstep/text/token_file.h"

namespace lockstep {

namespace {

constexpr int64_t kPage = 4096;

// Bytes that are written once and read once. Its name goes at once: nothing is left of it, however the
// process ends.
class Spool {
 public:
  explicit Spool(const std::string& path) : path_(path) {
    const UnfinishedFile name(path);
    file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file_ < 0)
      fail(ErrorKind::kData, fmt::format("{}: cannot be written: {}", path, std::strerror(errno)));
  }
  ~Spool() { ::close(file_); }
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  template <class Value>
  void add(const Value& value) {
    if (used_ + sizeof value > buffer_.size()) flush();
    std::memcpy(buffer_.data() + used_, &value, sizeof value);
    used_ += sizeof value;
    size_ += static_cast<int64_t>(sizeof value);
  }
  int64_t size() const { return size_; }

  void move_to(BlockWriter& writer, RawValues& target) {
    flush();
    for (int64_t at = 0; at < size_;) {
      const ssize_t count = ::pread(file_, buffer_.data(), buffer_.size(), at);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) fail_disk("read", count == 0 ? EIO : errno);
      writer.add(target, std::span(buffer_).first(static_cast<size_t>(count)));
      at += count;
    }
    writer.flush(target);
  }

 private:
  void flush() {
    size_t done = 0;
    while (done < used_) {
      const ssize_t count = ::write(file_, buffer_.data() + done, used_ - done);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) fail_disk("written", count == 0 ? EIO : errno);
      done += static_cast<size_t>(count);
    }
    used_ = 0;
  }
  [[noreturn]] void fail_disk(const char* what, int error) const {
    fail(ErrorKind::kData, fmt::format("{}: cannot be {}: {}", path_, what, std::strerror(error)));
  }

  std::string path_;
  int file_ = -1;
  int64_t size_ = 0;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(static_cast<size_t>(kBlockBytes));
  size_t used_ = 0;
};

}  // namespace

struct TokenFileWriter::Impl {
  Impl(const std::string& output, const TokenFileDescription& wanted)
      : path(output),
        unfinished(fmt::format("{}.{}.partial", output, getpid())),
        temporary(unfinished.path()),
        description(wanted),
        tokens(temporary + ".tokens"),
        documents(temporary + ".documents"),
        counted(temporary + ".counted") {}

  std::string path;
  UnfinishedFile unfinished;
  const std::string& temporary;
  TokenFileDescription description;
  Spool tokens, documents, counted;
  int64_t begin = 0;  // of the document under way
  uint8_t bits = 0;   // of the last tokens, whether they count
};

TokenFileWriter::TokenFileWriter(const std::string& path, const TokenFileDescription& description) {
  require_replaceable(path, "holds no tokens", [&] { return holds_tokens(path); });
  impl_ = std::make_unique<Impl>(path, description);
  TokenFileDescription& own = impl_->description;
  own.source = path;
  own.tokens = own.documents = 0;
  own.counted = own.text_bytes = 0;
  own.largest = own.largest_position = -1;
  own.bytes_per_token = token_bytes(own.vocabulary_size);
}

TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::add(std::span<const int32_t> tokens, bool count) {
  TokenFileDescription& own = impl_->description;
  for (const int32_t token : tokens) {
    if (token < 0 || token >= own.vocabulary_size) {
      fail(ErrorKind::kData, fmt::format("{}: token {} is {}: outside of a vocabulary of {}", own.source,
                                         own.tokens, token, own.vocabulary_size));
    }
    if (token > own.largest) {
      own.largest = token;
      own.largest_position = own.tokens;
    }
    if (own.bytes_per_token == 2) {
      impl_->tokens.add(static_cast<uint16_t>(token));
    } else {
      impl_->tokens.add(static_cast<uint32_t>(token));
    }
    if (count) {
      impl_->bits = static_cast<uint8_t>(impl_->bits | 1 << own.tokens % 8);
      ++own.counted;
    }
    if (++own.tokens % 8 == 0) impl_->counted.add(std::exchange(impl_->bits, uint8_t{0}));
  }
}

void TokenFileWriter::add_text_bytes(int64_t bytes) {
  impl_->description.text_bytes += bytes;
}

void TokenFileWriter::end_document() {
  impl_->documents.add(static_cast<uint64_t>(impl_->begin));
  impl_->begin = impl_->description.tokens;
  ++impl_->description.documents;
}

TokenFileDescription TokenFileWriter::finish() {
  Impl& impl = *impl_;
  TokenFileDescription& own = impl.description;
  if (own.tokens == 0) fail(ErrorKind::kData, impl.path + ": not written: there are no tokens");
  if (own.counted == 0) {
    fail(ErrorKind::kData, fmt::format("{}: not written: none of {} tokens counts: all completions are empty",
                                       impl.path, own.tokens));
  }
  if (impl.begin != own.tokens) fail(ErrorKind::kInternal, impl.path + ": its last document has no end");
  impl.documents.add(static_cast<uint64_t>(own.tokens));
  if (own.tokens % 8 != 0) impl.counted.add(impl.bits);
  const bool masked = own.counted != own.tokens;
  Hdf5File hdf5 = Hdf5File::create(impl.temporary, ErrorKind::kData, kPage, kPage);
  std::vector<Spool*> spools = {&impl.tokens, &impl.documents};
  std::vector<BlockedArray> arrays = {
      {hdf5.allocate_unsigned("/tokens", own.bytes_per_token, {own.tokens}), impl.tokens.size()},
      {hdf5.allocate_unsigned("/documents", 8, {own.documents + 1}), impl.documents.size()}};
  if (masked) {
    spools.push_back(&impl.counted);
    arrays.push_back({hdf5.allocate_unsigned("/counted", 1, {impl.counted.size()}), impl.counted.size()});
  }
  int64_t blocks = 0;
  for (const BlockedArray& array : arrays) blocks += blocks_of(array.bytes);
  const int64_t table = hdf5.allocate("/digests", DType::kU8, {blocks, std::ssize(Digest{})});
  hdf5.write_attribute("/", kTokenLayoutAttribute, masked ? kCountedLayout : kTokenLayout);
  hdf5.write_attribute("/", "vocabulary_size", own.vocabulary_size);
  hdf5.write_attribute("/", "tokenizer", own.tokenizer);
  hdf5.write_attribute("/", "begin_token", int64_t{own.begin.value_or(-1)});
  hdf5.write_attribute("/", "end_token", int64_t{own.end.value_or(-1)});
  hdf5.write_attribute("/", "largest_token", own.largest);
  hdf5.write_attribute("/", "largest_position", own.largest_position);
  hdf5.write_attribute("/", "text_bytes", own.text_bytes);
  if (masked) hdf5.write_attribute("/", "counted_tokens", own.counted);
  hdf5.close();
  if (!std::ranges::is_sorted(arrays, {}, &BlockedArray::offset))
    fail(ErrorKind::kInternal, impl.temporary + ": HDF5 has put arrays into another order");
  {
    RawValues file(impl.temporary, ErrorKind::kData);
    std::vector<Digest> digests;
    for (size_t i = 0; i < arrays.size(); ++i) {
      BlockWriter blocks_of_array(arrays[i], impl.temporary);
      spools[i]->move_to(blocks_of_array, file);
      if (!blocks_of_array.complete()) fail(ErrorKind::kInternal, impl.temporary + ": tokens are missing");
      digests.insert(digests.end(), blocks_of_array.digests().begin(), blocks_of_array.digests().end());
    }
    file.write(table, std::as_bytes(std::span(digests)));
  }
  seal_blocked_file(impl.temporary, ErrorKind::kData, arrays, table);
  if (!masked) own.counted = -1;
  commit_file(impl.temporary, impl.path, ErrorKind::kData);
  return own;
}

}  // namespace lockstep
