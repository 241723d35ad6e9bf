// Token files of other programs: llm.c's, and Megatron's pairs.
#include <fmt/format.h>

#include <cstring>
#include <string_view>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/text/token_elements.h"
#include "lockstep/text/token_file.h"

namespace lockstep {

namespace {

// A whole file of another program, mapped. Errors (kData): missing, no regular file, empty, cannot be mapped.
class ForeignFile {
 public:
  explicit ForeignFile(const std::string& path)
      : path_(path),
        mapping_(path, static_cast<size_t>(checked_file_size(path)), ErrorKind::kData),
        written_(mapping_.require_readable()) {}

  const std::string& path() const { return path_; }
  int64_t size() const { return std::ssize(mapping_.bytes()); }
  // The integer that begins at this byte, little-endian, aligned or not. Inside of the file.
  template <class Integer>
  Integer at(int64_t offset) const {
    Integer value;
    std::memcpy(&value, mapping_.bytes().data() + offset, sizeof value);
    require_unchanged();
    return value;
  }
  // Tokens from this byte on; first: the number of the first, for messages.
  void copy(int64_t offset, int width, int64_t first, std::span<int32_t> out) const {
    copy_tokens(mapping_.bytes().data() + offset, width, first, out, path_);
    require_unchanged();
  }
  bool begins_with(std::string_view magic) const {
    return std::memcmp(mapping_.bytes().data(), magic.data(), magic.size()) == 0;
  }
  void read_ahead(int64_t offset, int64_t bytes) const {
    mapping_.read_ahead(static_cast<size_t>(offset), static_cast<size_t>(offset + bytes));
  }

 private:
  // No digests tell what of it is still what it was.
  void require_unchanged() const {
    if (mapping_.require_readable() == written_) return;
    fail(ErrorKind::kData, path_ + ": has been written to while it is in use");
  }

  std::string path_;
  MappedFile mapping_;
  int64_t written_;  // when it was last, in nanoseconds
};

// 256 int32 (magic, version, count), then the tokens. Documents are found by the token before each.
class LlmcTokens final : public TokenFile {
 public:
  explicit LlmcTokens(const std::string& path) : file_(path) {
    const auto refuse = [&](const std::string& rule) {
      fail(ErrorKind::kData, fmt::format("{}: {}", path, rule));
    };
    if (file_.size() < kHeaderBytes) refuse("truncated: the header has 1024 bytes");
    const auto magic = file_.at<int32_t>(0), version = file_.at<int32_t>(4);
    const bool gpt2 = magic == kGpt2Tokens;
    if (!gpt2 && magic != kLlama3Tokens)
      refuse(fmt::format("magic {}: {} and {} are of tokens", magic, kGpt2Tokens, kLlama3Tokens));
    const int32_t expected = gpt2 ? 1 : 7;
    if (version != expected)
      refuse(fmt::format("version {}: of files with magic {} version {} is known", version, magic, expected));
    const auto count = file_.at<int32_t>(8);
    description_.source = path;
    description_.bytes_per_token = gpt2 ? 2 : 4;
    description_.tokens = (file_.size() - kHeaderBytes) / description_.bytes_per_token;
    // Written as 32 bits: of a larger count the low ones.
    if (file_.size() != kHeaderBytes + description_.tokens * description_.bytes_per_token ||
        static_cast<int32_t>(static_cast<uint32_t>(description_.tokens)) != count) {
      refuse(fmt::format("the header says {} tokens, the {} bytes behind it hold {}", count,
                         file_.size() - kHeaderBytes, description_.tokens));
    }
    if (description_.tokens == 0) refuse("holds no tokens");
    description_.vocabulary_size = gpt2 ? 50257 : 128256;
    description_.begin = gpt2 ? 50256 : 128000;
  }
  void read(int64_t first, std::span<int32_t> out) const override {
    const int width = description_.bytes_per_token;
    file_.copy(kHeaderBytes + first * width, width, first, out);
  }
  int64_t document_begin(int64_t) const override {
    fail(ErrorKind::kInternal, description_.source + ": its documents are not known");
  }
  void read_ahead(int64_t first, int64_t count) const override {
    const int width = description_.bytes_per_token;
    file_.read_ahead(kHeaderBytes + first * width, count * width);
  }

 private:
  static constexpr int64_t kHeaderBytes = 1024;
  ForeignFile file_;
};

// .idx: magic of 9 bytes, u64 version 1, u8 type, u64 sequences, u64 document entries, then int32 lengths and
// int64 byte offsets of the sequences, int64 first sequences of the documents (with the number of sequences
// last).
class MegatronTokens final : public TokenFile {
 public:
  MegatronTokens(const std::string& index_path, const std::string& path) : index_(index_path), file_(path) {
    const auto refuse = [&](const std::string& rule) {
      fail(ErrorKind::kData, fmt::format("{}: {}", index_path, rule));
    };
    constexpr std::string_view kIndexMagic("MMIDIDX\0\0", 9);
    if (index_.size() < kHeaderBytes) refuse(fmt::format("truncated: the header has {} bytes", kHeaderBytes));
    if (!index_.begins_with(kIndexMagic)) refuse("is no index of Megatron: it does not begin with MMIDIDX");
    if (const auto version = index_.at<uint64_t>(9); version != 1)
      refuse(fmt::format("version {}: 1 is known", version));
    const int type = index_.at<uint8_t>(17);
    static constexpr int kBytes[] = {0, 1, 1, 2, 4, 8, 0, 0, 2};
    if (type > 8 || kBytes[type] == 0) refuse(fmt::format("type {}: not one of integers", type));
    description_.bytes_per_token = kBytes[type];
    const auto sequences = index_.at<uint64_t>(18), entries = index_.at<uint64_t>(26);
    // No more than the file can hold, so that what follows does not overflow.
    const auto most = static_cast<uint64_t>(index_.size());
    if (sequences == 0 || entries < 2 || sequences > most / 12 || entries > most / 8 ||
        kHeaderBytes + static_cast<int64_t>(12 * sequences + 8 * entries) > index_.size()) {
      refuse(fmt::format("{} sequences and {} entries of documents in {} bytes", sequences, entries,
                         index_.size()));
    }
    sequences_ = static_cast<int64_t>(sequences);
    offsets_ = kHeaderBytes + 4 * sequences_;
    documents_ = offsets_ + 8 * sequences_;
    description_.source = path;
    description_.documents = static_cast<int64_t>(entries) - 1;
    description_.tokens = file_.size() / description_.bytes_per_token;
    // Sequences lie one behind the other: the last one ends the file.
    const auto last = index_.at<int32_t>(kHeaderBytes + 4 * (sequences_ - 1));
    const auto offset = index_.at<int64_t>(offsets_ + 8 * (sequences_ - 1));
    if (index_.at<int64_t>(offsets_) != 0 || last < 0 || offset < 0 || offset > file_.size() ||
        offset + int64_t{last} * description_.bytes_per_token != file_.size()) {
      refuse(fmt::format("its last sequence, {} tokens at byte {}, does not end {} of {} bytes", last, offset,
                         path, file_.size()));
    }
    if (index_.at<int64_t>(documents_) != 0 ||
        index_.at<int64_t>(documents_ + 8 * description_.documents) != sequences_)
      refuse("its documents do not begin with the first sequence or end with the last");
  }
  void read(int64_t first, std::span<int32_t> out) const override {
    const int width = description_.bytes_per_token;
    file_.copy(first * width, width, first, out);
  }
  int64_t document_begin(int64_t i) const override {
    const auto sequence = index_.at<int64_t>(documents_ + 8 * i);
    if (sequence == sequences_) return description_.tokens;
    const int width = description_.bytes_per_token;
    const int64_t offset =
        sequence >= 0 && sequence < sequences_ ? index_.at<int64_t>(offsets_ + 8 * sequence) : -1;
    if (offset < 0 || offset > file_.size() || offset % width != 0) {
      fail(ErrorKind::kData, fmt::format("{}: document {} begins with sequence {} at byte {} of {}",
                                         index_.path(), i, sequence, offset, file_.size()));
    }
    return offset / width;
  }
  void read_ahead(int64_t first, int64_t count) const override {
    const int width = description_.bytes_per_token;
    file_.read_ahead(first * width, count * width);
  }

 private:
  static constexpr int64_t kHeaderBytes = 34;
  ForeignFile index_, file_;
  int64_t sequences_ = 0, offsets_ = 0, documents_ = 0;
};

}  // namespace

std::unique_ptr<TokenFile> open_llmc_tokens(const std::string& path) {
  return std::make_unique<LlmcTokens>(path);
}

std::unique_ptr<TokenFile> open_megatron_tokens(const std::string& index_path, const std::string& path) {
  return std::make_unique<MegatronTokens>(index_path, path);
}

}  // namespace lockstep
