// Sealed token files: reading, and which reader a file is for.
#include "lockstep/text/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/mapped_blocks.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/token_elements.h"

namespace lockstep {

namespace fs = std::filesystem;

int64_t TokenFile::document_of(int64_t position) const {
  int64_t low = 0, high = description_.documents;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (document_begin(middle) <= position ? low : high) = middle;
  }
  return low;
}

void TokenFile::read_weights(int64_t, std::span<float> out) const {
  std::ranges::fill(out, 1.0f);
}

namespace {

constexpr int64_t kTokens = 0, kDocuments = 1, kCounted = 2;  // the sealed arrays
constexpr std::array<const char*, 3> kArrayNames = {"tokens", "documents", "counted"};

class SealedTokens final : public TokenFile {
 public:
  SealedTokens(const std::string& path, BlockedFile content) {
    const auto refuse = [&](const std::string& rule) {
      fail(ErrorKind::kData, fmt::format("{}: {}", path, rule));
    };
    const Hdf5File file = Hdf5File::open_sealed(path, ErrorKind::kData);
    if (!file.has_attribute("/", kTokenLayoutAttribute))
      refuse("holds no tokens (lockstep tokenize makes them)");
    const auto number = [&](const char* name) { return file.read_attribute_integer("/", name); };
    const int64_t layout = number(kTokenLayoutAttribute);
    if (layout != kTokenLayout && layout != kCountedLayout) {
      refuse(fmt::format("layout {} of tokens: this program knows {} and {}", layout, kTokenLayout,
                         kCountedLayout));
    }
    const Hdf5Entry tokens = file.describe("/tokens"), documents = file.describe("/documents");
    description_.source = path;
    description_.tokens = tokens.shape.elements();
    description_.documents = documents.shape.elements() - 1;
    description_.vocabulary_size = number("vocabulary_size");
    description_.tokenizer = file.read_attribute_text("/", "tokenizer");
    const auto token = [&](const char* name) {
      const int64_t id = number(name);
      return id < 0 ? std::nullopt : std::optional(static_cast<int32_t>(id));
    };
    description_.begin = token("begin_token");
    description_.end = token("end_token");
    description_.largest = number("largest_token");
    description_.largest_position = number("largest_position");
    description_.bytes_per_token = token_bytes(description_.vocabulary_size);
    // Files of before do not say.
    if (file.has_attribute("/", "text_bytes")) description_.text_bytes = number("text_bytes");
    const bool masked = layout == kCountedLayout;
    if (masked) description_.counted = number("counted_tokens");
    const bool fit = content.arrays.size() == (masked ? 3 : 2) && description_.tokens > 0 &&
                     description_.documents > 0 &&
                     content.arrays[kTokens].bytes == description_.tokens * description_.bytes_per_token &&
                     content.arrays[kDocuments].bytes == (description_.documents + 1) * 8 &&
                     (!masked || content.arrays[kCounted].bytes == (description_.tokens + 7) / 8);
    if (!fit) refuse("its seal is about other arrays than those of tokens");
    mapping_ = std::make_unique<MappedBlocks>(path, std::move(content), ErrorKind::kData);
    // A seal says that the file is as it was written, not that who wrote it counted right.
    const int64_t first = begin_of(0), last = begin_of(description_.documents);
    if (first != 0 || last != description_.tokens) {
      refuse(fmt::format("its documents begin at {} and end at {}: it holds tokens 0 to {}", first, last,
                         description_.tokens));
    }
  }

  void read(int64_t first, std::span<int32_t> out) const override {
    const int width = description_.bytes_per_token;
    const int64_t begin = first * width, end = begin + std::ssize(out) * width;
    mapping_->read([&] {
      require(kTokens, begin, end, width);
      copy_tokens(mapping_->array(kTokens).data() + begin, width, first, out, description_.source);
    });
  }
  void read_weights(int64_t first, std::span<float> out) const override {
    if (description_.counted < 0) return TokenFile::read_weights(first, out);
    const std::span<const std::byte> bits = mapping_->array(kCounted);
    mapping_->read([&] {
      require(kCounted, first / 8, (first + std::ssize(out) + 7) / 8, 1);
      for (size_t i = 0; i < out.size(); ++i) {
        const auto at = static_cast<size_t>(first) + i;
        out[i] = (bits[at / 8] >> (at % 8) & std::byte{1}) != std::byte{0} ? 1.0f : 0.0f;
      }
    });
  }
  int64_t document_begin(int64_t i) const override { return begin_of(i); }
  void read_ahead(int64_t first, int64_t count) const override {
    const int width = description_.bytes_per_token;
    mapping_->read_ahead(kTokens, first * width, (first + count) * width);
  }
  std::string digest() const override {
    return digest_of_digests(fmt::format("tokens {} {}", description_.tokens, description_.bytes_per_token),
                             mapping_->digests());
  }

 private:
  int64_t begin_of(int64_t i) const {
    int64_t begin = 0;
    mapping_->read([&] {
      require(kDocuments, 8 * i, 8 * i + 8, 8);
      std::memcpy(&begin, mapping_->array(kDocuments).data() + 8 * i, sizeof begin);
    });
    if (begin < 0 || begin > description_.tokens)
      fail(ErrorKind::kData, fmt::format("{}: document {} begins at {} of {} tokens", description_.source, i,
                                         begin, description_.tokens));
    return begin;
  }
  void require(int64_t array, int64_t begin, int64_t end, int64_t width) const {
    const auto damaged = mapping_->first_damaged(array, begin, end);
    if (!damaged) return;
    const int64_t first = *damaged * kBlockBytes / width;
    fail(ErrorKind::kData,
         fmt::format("{}: damaged: block {} of /{} (from element {} on) is not what was sealed",
                     description_.source, *damaged, kArrayNames[static_cast<size_t>(array)], first));
  }

  std::unique_ptr<MappedBlocks> mapping_;
};

}  // namespace

std::unique_ptr<TokenFile> open_sealed_tokens(const std::string& path) {
  std::optional<BlockedFile> content = verify_outline(path, ErrorKind::kData);
  if (!content) fail(ErrorKind::kData, path + ": holds no sealed tokens (lockstep tokenize makes them)");
  return std::make_unique<SealedTokens>(path, std::move(*content));
}

bool outlines_tokens(const std::string& path) {
  return Hdf5File::open_sealed(path, ErrorKind::kData).has_attribute("/", kTokenLayoutAttribute);
}

bool holds_tokens(const std::string& path) {
  return seals_blocks(path, ErrorKind::kData) && verify_outline(path, ErrorKind::kData) &&
         outlines_tokens(path);
}

std::unique_ptr<TokenFile> open_token_file(const std::string& path) {
  const fs::path name = path;
  std::error_code error;
  // Megatron's prefix, .bin or .idx.
  fs::path stem = name;
  if (name.extension() == ".idx" || name.extension() == ".bin") stem.replace_extension();
  const std::string index = stem.string() + ".idx";
  std::array<char, 16> start{};
  // A pipe would keep the reader waiting, and is no file of tokens.
  if (const std::string first = name.extension() == ".idx" ? index : path; fs::is_regular_file(first, error))
    std::ifstream(first, std::ios::binary).read(start.data(), start.size());
  int32_t magic = 0;
  std::memcpy(&magic, start.data(), sizeof magic);
  if (magic == kGpt2Tokens || magic == kLlama3Tokens) return open_llmc_tokens(path);
  if (fs::is_regular_file(index, error)) return open_megatron_tokens(index, stem.string() + ".bin");
  if (!fs::exists(path, error)) fail(ErrorKind::kData, path + ": cannot be read: there is no such file");
  checked_file_size(path);
  // Of a .bin that is neither, llm.c's reader says why.
  const bool foreign = name.extension() == ".bin" && !apparent_state(path, ErrorKind::kData);
  return foreign ? open_llmc_tokens(path) : open_sealed_tokens(path);
}

}  // namespace lockstep
