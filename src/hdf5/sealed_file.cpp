// Sealing, verifying and committing files: plain POSIX calls, every one of them checked.
#include "lockstep/hdf5/sealed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <system_error>
#include <vector>

namespace lockstep {

namespace {

static_assert(std::endian::native == std::endian::little, "the seal stores native integers as little-endian");

constexpr std::array<char, 16> kMagic = {'\x89', 'L', 'O', 'C', 'K', 'S', 'T',  'E',
                                         'P',    '-', 'S', 'E', 'A', 'L', '\r', '\n'};
constexpr std::array<char, 8> kHdf5Signature = {'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};
constexpr uint64_t kSealVersion = 1, kBlockedVersion = 2;
constexpr size_t kVersionOffset = 16, kLengthOffset = 24, kPayloadHashOffset = 32, kBlockHashOffset = 496;
constexpr size_t kBlockBytesOffset = 48, kTableOffset = 56, kArrayCountOffset = 64, kArraysOffset = 72,
                 kMostArrays = 16;
constexpr size_t kBufferBytes = size_t{1} << 20;

using Block = std::array<char, kSealBytes>;

[[noreturn]] void fail_errno(ErrorKind kind, const std::string& path, const char* rule, int error = errno) {
  fail(kind, fmt::format("{}: {}: {}", path, rule, std::generic_category().message(error)));
}

// An open regular file; the destructor closes it without a report, which is enough after fsync or reading.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, ErrorKind kind)
      : path_(path), kind_(kind), number_(::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK)) {
    if (number_ < 0) fail_errno(kind, path, "cannot open");
  }
  ~Descriptor() { ::close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  // Size in bytes. O_NONBLOCK above and this check keep a pipe or a device from hanging the reader.
  int64_t regular_file_size() const {
    struct stat status {};
    if (::fstat(number_, &status) != 0) fail_errno(kind_, path_, "cannot stat");
    if (!S_ISREG(status.st_mode)) fail(kind_, path_ + ": not a regular file");
    return status.st_size;
  }

  // Fills `buffer` from `offset` on; shorter at the end of the file.
  size_t read_at(uint64_t offset, std::span<char> buffer) const {
    size_t done = 0;
    while (done < buffer.size()) {
      const ssize_t count =
          ::pread(number_, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
      if (count == 0) break;
      if (count > 0) {
        done += static_cast<size_t>(count);
      } else if (errno != EINTR) {
        fail_errno(kind_, path_, "cannot read");
      }
    }
    return done;
  }

  void write_at_start(std::span<const char> bytes) const {
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t count =
          ::pwrite(number_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
      if (count >= 0) {
        done += static_cast<size_t>(count);
      } else if (errno != EINTR) {
        fail_errno(kind_, path_, "cannot write the seal");
      }
    }
  }

  void sync() const {
    if (::fsync(number_) != 0) fail_errno(kind_, path_, "cannot bring the file to disk");
  }

 private:
  std::string path_;
  ErrorKind kind_;
  int number_;
};

XXH128_canonical_t canonical(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  return bytes;
}

// XXH3-128 of everything between the seal and `end` but the arrays.
XXH128_canonical_t hash_payload(const Descriptor& file, int64_t end,
                                std::span<const BlockedArray> arrays = {}) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  std::vector<char> buffer(kBufferBytes);
  int64_t at = kSealBytes;
  const auto hash_until = [&](int64_t stop) {
    while (at < stop) {
      const auto wanted = std::min<int64_t>(stop - at, std::ssize(buffer));
      const size_t count =
          file.read_at(static_cast<uint64_t>(at), std::span(buffer).first(static_cast<size_t>(wanted)));
      if (count == 0) break;  // shorter than it was: another digest
      XXH3_128bits_update(state.get(), buffer.data(), count);
      at += static_cast<int64_t>(count);
    }
  };
  for (const BlockedArray& array : arrays) {
    hash_until(array.offset);
    at = array.offset + array.bytes;
  }
  hash_until(end);
  return canonical(XXH3_128bits_digest(state.get()));
}

XXH128_canonical_t block_hash(const Block& block) {
  return canonical(XXH3_128bits(block.data(), kBlockHashOffset));
}

template <class T>
void put(Block& block, size_t offset, const T& value) {
  std::memcpy(block.data() + offset, &value, sizeof value);
}

uint64_t integer_at(const Block& block, size_t offset) {
  uint64_t value;
  std::memcpy(&value, block.data() + offset, sizeof value);
  return value;
}

bool starts_with(std::span<const char> bytes, std::span<const char> prefix) {
  return bytes.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), bytes.begin());
}

// A seal whose magic was damaged: what follows is not to be taken for a file that never had one.
bool resembles_seal(const Block& block, int64_t file_size) {
  size_t same = 0;
  for (size_t i = 0; i < kMagic.size(); ++i) same += block[i] == kMagic[i] ? 1 : 0;
  return same >= kMagic.size() / 2 ||
         ((integer_at(block, kVersionOffset) == kSealVersion ||
           integer_at(block, kVersionOffset) == kBlockedVersion) &&
          integer_at(block, kLengthOffset) == static_cast<uint64_t>(file_size - kSealBytes));
}

// A seal that was erased: whoever makes room for a user block of a seal's size writes something into it.
bool is_erased(const Block& block) {
  return std::all_of(block.begin(), block.begin() + kMagic.size(), [](char byte) { return byte == 0; });
}

std::optional<int64_t> find_plain_signature(const Descriptor& file) {
  const int64_t size = file.regular_file_size();
  std::array<char, kHdf5Signature.size()> found{};
  for (int64_t at = 0; at < size; at = at == 0 ? kSealBytes : 2 * at) {
    if (file.read_at(static_cast<uint64_t>(at), found) != found.size() || found != kHdf5Signature) continue;
    Block block{};
    const bool sealed_once = at > 0 && file.read_at(0, block) == block.size() &&
                             (resembles_seal(block, size) || (at == kSealBytes && is_erased(block)));
    return sealed_once ? std::nullopt : std::optional(at);
  }
  return std::nullopt;
}

void sync_directory_of(const std::string& path, ErrorKind kind) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string directory = parent.empty() ? "." : parent.string();
  const int number = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (number < 0) fail_errno(kind, directory, "cannot open");
  const int error = ::fsync(number) == 0 ? 0 : errno;
  ::close(number);
  // EINVAL: a file system whose directories cannot be synced; nothing more can be done there.
  if (error != 0 && error != EINVAL) fail_errno(kind, directory, "cannot bring the directory to disk", error);
}

}  // namespace

Digest digest_of(std::span<const std::byte> bytes) {
  return std::bit_cast<Digest>(canonical(XXH3_128bits(bytes.data(), bytes.size())));
}

std::vector<Digest> block_digests(std::span<const std::byte> array) {
  std::vector<Digest> digests;
  digests.reserve(static_cast<size_t>(blocks_of(std::ssize(array))));
  for (size_t at = 0; at < array.size(); at += static_cast<size_t>(kBlockBytes))
    digests.push_back(
        digest_of(array.subspan(at, std::min(array.size() - at, static_cast<size_t>(kBlockBytes)))));
  return digests;
}

std::string digest_of_digests(const std::string& layout, std::span<const Digest> digests) {
  std::vector<std::byte> bytes(layout.size() + digests.size_bytes());
  std::memcpy(bytes.data(), layout.data(), layout.size());
  if (!digests.empty()) std::memcpy(bytes.data() + layout.size(), digests.data(), digests.size_bytes());
  std::string text;
  for (const std::byte byte : digest_of(bytes)) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

namespace {

void write_seal(const Descriptor& file, Block block, std::span<const BlockedArray> arrays) {
  const int64_t size = file.regular_file_size();
  put(block, 0, kMagic);
  put(block, kLengthOffset, static_cast<uint64_t>(size - kSealBytes));
  put(block, kPayloadHashOffset, hash_payload(file, size, arrays));
  put(block, kBlockHashOffset, block_hash(block));
  file.write_at_start(block);
  file.sync();
}

// The block of a file that is sealed and has the sealed length; nullopt: plain HDF5.
std::optional<Block> sealed_block(const Descriptor& file, const std::string& path, ErrorKind kind,
                                  bool required) {
  const int64_t size = file.regular_file_size();
  const auto damaged = [&](const std::string& rule) { throw DamagedFile(kind, path + ": " + rule); };
  if (size == 0) damaged("empty file");
  Block block{};
  const size_t present = file.read_at(0, block);
  const std::span<const char> start(block.data(), present);
  if (find_plain_signature(file)) {
    if (required) damaged("not sealed: an HDF5 file of another program");
    return std::nullopt;
  }
  std::array<char, kHdf5Signature.size()> behind{};
  if (present == block.size() && is_erased(block) && file.read_at(kSealBytes, behind) == behind.size() &&
      behind == kHdf5Signature) {
    damaged(fmt::format(
        "neither a sealed file nor plain HDF5: the {} bytes before its HDF5 data are empty: a seal "
        "that was erased or never written, or, in a file of another program, a user block that has "
        "to hold something or go (h5unjam)",
        kSealBytes));
  }
  if (!starts_with(start, kMagic)) {
    damaged("neither a sealed file nor plain HDF5, or its first bytes were damaged");
  }
  if (present < block.size()) {
    damaged(fmt::format("truncated: {} bytes, the seal alone has {}", size, kSealBytes));
  }
  const XXH128_canonical_t expected_block_hash = block_hash(block);
  if (std::memcmp(&expected_block_hash, block.data() + kBlockHashOffset, sizeof expected_block_hash) != 0) {
    damaged("damaged: the checksum of the seal differs");
  }
  if (const uint64_t version = integer_at(block, kVersionOffset);
      version != kSealVersion && version != kBlockedVersion) {
    fail(kind, fmt::format("{}: seal version {}: this program knows versions {} and {}", path, version,
                           kSealVersion, kBlockedVersion));
  }
  const uint64_t sealed_length = integer_at(block, kLengthOffset);
  const uint64_t found_length = static_cast<uint64_t>(size - kSealBytes);
  if (found_length != sealed_length) {
    damaged(fmt::format("{}: sealed with {} bytes after the seal, found {}",
                        found_length < sealed_length ? "truncated" : "longer than sealed", sealed_length,
                        found_length));
  }
  return block;
}

// Arrays and digests of a seal of version 2; none of version 1. Everything outside of the arrays is verified.
BlockedFile verified_outline(const Descriptor& file, const Block& block, const std::string& path,
                             ErrorKind kind) {
  BlockedFile content;
  const auto number = [&](size_t offset) { return static_cast<int64_t>(integer_at(block, offset)); };
  const int64_t size = number(kLengthOffset) + kSealBytes;
  const bool blocked = number(kVersionOffset) == static_cast<int64_t>(kBlockedVersion);
  int64_t table = 0, blocks = 0;
  if (blocked) {
    // The seal's own checksum holds, so these numbers are wrong only where a program wrote them so.
    table = number(kTableOffset);
    const int64_t count = number(kArrayCountOffset);
    bool sound =
        number(kBlockBytesOffset) == kBlockBytes && count >= 0 && count <= static_cast<int64_t>(kMostArrays);
    int64_t end = kSealBytes;
    for (int64_t i = 0; sound && i < count; ++i) {
      const size_t at = kArraysOffset + static_cast<size_t>(i) * 16;
      const BlockedArray array{number(at), number(at + 8)};
      sound = array.offset >= end && array.bytes >= 0 && array.bytes <= size - array.offset;
      if (!sound) break;  // the sums would leave 64 bits
      end = array.offset + array.bytes;
      blocks += blocks_of(array.bytes);
      content.arrays.push_back(array);
    }
    sound = sound && table >= kSealBytes && blocks <= (size - table) / std::ssize(Digest{});
    if (!sound)
      throw DamagedFile(kind, path + ": damaged: the seal describes arrays that the file cannot hold");
  }
  const XXH128_canonical_t payload_hash = hash_payload(file, size, content.arrays);
  if (std::memcmp(&payload_hash, block.data() + kPayloadHashOffset, sizeof payload_hash) != 0) {
    throw DamagedFile(kind, fmt::format("{}: damaged: the checksum of the {} differs from the sealed one",
                                        path, blocked ? "metadata" : "content"));
  }
  content.digests.resize(static_cast<size_t>(blocks));
  const std::span<char> bytes(reinterpret_cast<char*>(content.digests.data()),
                              content.digests.size() * sizeof(Digest));
  if (file.read_at(static_cast<uint64_t>(table), bytes) != bytes.size())
    throw DamagedFile(kind, path + ": truncated");
  return content;
}

}  // namespace

void seal_file(const std::string& path, ErrorKind kind) {
  const Descriptor file(path, O_RDWR, kind);
  file.regular_file_size();
  std::array<char, kHdf5Signature.size()> signature{};
  if (file.read_at(kSealBytes, signature) != signature.size() || signature != kHdf5Signature) {
    fail(kind,
         fmt::format("{}: cannot seal: not an HDF5 file with a user block of {} bytes", path, kSealBytes));
  }
  Block block{};
  put(block, kVersionOffset, kSealVersion);
  write_seal(file, block, {});
}

void seal_blocked_file(const std::string& path, ErrorKind kind, const std::vector<BlockedArray>& arrays,
                       int64_t table) {
  const Descriptor file(path, O_RDWR, kind);
  Block block{};
  put(block, kVersionOffset, kBlockedVersion);
  put(block, kBlockBytesOffset, static_cast<uint64_t>(kBlockBytes));
  put(block, kTableOffset, static_cast<uint64_t>(table));
  put(block, kArrayCountOffset, static_cast<uint64_t>(arrays.size()));
  for (size_t i = 0; i < arrays.size(); ++i) {
    put(block, kArraysOffset + i * 16, static_cast<uint64_t>(arrays[i].offset));
    put(block, kArraysOffset + i * 16 + 8, static_cast<uint64_t>(arrays[i].bytes));
  }
  write_seal(file, block, arrays);
}

bool seals_blocks(const std::string& path, ErrorKind kind) {
  const Descriptor file(path, O_RDONLY, kind);
  Block block{};
  return file.read_at(0, block) == block.size() && integer_at(block, kVersionOffset) == kBlockedVersion;
}

std::optional<BlockedFile> verify_outline(const std::string& path, ErrorKind kind) {
  const Descriptor file(path, O_RDONLY, kind);
  const std::optional<Block> block = sealed_block(file, path, kind, false);
  if (!block || integer_at(*block, kVersionOffset) != kBlockedVersion) return std::nullopt;
  return verified_outline(file, *block, path, kind);
}

SealState verify_seal(const std::string& path, ErrorKind kind, bool required) {
  const Descriptor file(path, O_RDONLY, kind);
  const std::optional<Block> block = sealed_block(file, path, kind, required);
  if (!block) return SealState::kUnsealed;
  const BlockedFile content = verified_outline(file, *block, path, kind);
  std::vector<char> buffer(content.arrays.empty() ? 0 : static_cast<size_t>(kBlockBytes));
  auto expected = content.digests.begin();
  for (const BlockedArray& array : content.arrays) {
    for (int64_t at = 0; at < array.bytes; at += kBlockBytes, ++expected) {
      const auto bytes =
          std::span(buffer).first(static_cast<size_t>(std::min(kBlockBytes, array.bytes - at)));
      if (file.read_at(static_cast<uint64_t>(array.offset + at), bytes) != bytes.size() ||
          digest_of(std::as_bytes(bytes)) != *expected) {
        throw DamagedFile(
            kind, fmt::format("{}: damaged: the checksum of bytes {} to {} differs from the sealed one", path,
                              array.offset + at, array.offset + at + std::ssize(bytes)));
      }
    }
  }
  return SealState::kSealed;
}

std::optional<SealState> apparent_state(const std::string& path, ErrorKind kind) {
  const Descriptor file(path, O_RDONLY, kind);
  std::array<char, kMagic.size()> start{};
  const std::span<const char> present(start.data(), file.read_at(0, start));
  if (starts_with(present, kMagic)) return SealState::kSealed;
  return find_plain_signature(file) ? std::optional(SealState::kUnsealed) : std::nullopt;
}

std::optional<SealState> apparent_state(std::string_view beginning) {
  if (starts_with(beginning, kMagic)) return SealState::kSealed;
  return starts_with(beginning, kHdf5Signature) ? std::optional(SealState::kUnsealed) : std::nullopt;
}

std::optional<int64_t> plain_signature(const std::string& path, ErrorKind kind) {
  return find_plain_signature(Descriptor(path, O_RDONLY, kind));
}

void commit_file(const std::string& temporary, const std::string& path, ErrorKind kind) {
  try {
    Descriptor(temporary, O_RDONLY, kind).sync();
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_errno(kind, path, "cannot rename into place");
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory_of(path, kind);
}

}  // namespace lockstep
