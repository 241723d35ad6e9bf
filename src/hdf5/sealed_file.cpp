// Sealing, verifying and committing files: plain POSIX calls, every one of them checked.
#include "hdf5/sealed_file.h"

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
constexpr uint64_t kSealVersion = 1;
constexpr size_t kVersionOffset = 16, kLengthOffset = 24, kPayloadHashOffset = 32, kBlockHashOffset = 496;
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

// XXH3-128 of everything after the seal; `length` receives the number of bytes.
XXH128_canonical_t hash_payload(const Descriptor& file, uint64_t& length) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  std::vector<char> buffer(kBufferBytes);
  length = 0;
  while (const size_t count = file.read_at(kSealBytes + length, buffer)) {
    XXH3_128bits_update(state.get(), buffer.data(), count);
    length += count;
  }
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

void seal_file(const std::string& path, ErrorKind kind) {
  const Descriptor file(path, O_RDWR, kind);
  file.regular_file_size();
  std::array<char, kHdf5Signature.size()> signature{};
  if (file.read_at(kSealBytes, signature) != signature.size() || signature != kHdf5Signature) {
    fail(kind,
         fmt::format("{}: cannot seal: not an HDF5 file with a user block of {} bytes", path, kSealBytes));
  }
  uint64_t length = 0;
  const XXH128_canonical_t payload_hash = hash_payload(file, length);
  Block block{};
  put(block, 0, kMagic);
  put(block, kVersionOffset, kSealVersion);
  put(block, kLengthOffset, length);
  put(block, kPayloadHashOffset, payload_hash);
  put(block, kBlockHashOffset, block_hash(block));
  file.write_at_start(block);
  file.sync();
}

SealState verify_seal(const std::string& path, ErrorKind kind, bool required) {
  const Descriptor file(path, O_RDONLY, kind);
  const int64_t size = file.regular_file_size();
  const auto damaged = [&](const std::string& rule) { throw DamagedFile(kind, path + ": " + rule); };
  if (size == 0) damaged("empty file");
  Block block{};
  const size_t present = file.read_at(0, block);
  const std::span<const char> start(block.data(), present);
  if (starts_with(start, kHdf5Signature)) {
    if (required) damaged("not sealed: an HDF5 file of another program");
    return SealState::kUnsealed;
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
  if (const uint64_t version = integer_at(block, kVersionOffset); version != kSealVersion) {
    fail(kind,
         fmt::format("{}: seal version {}: this program knows version {}", path, version, kSealVersion));
  }
  const uint64_t sealed_length = integer_at(block, kLengthOffset);
  const uint64_t found_length = static_cast<uint64_t>(size - kSealBytes);
  if (found_length != sealed_length) {
    damaged(fmt::format("{}: sealed with {} bytes after the seal, found {}",
                        found_length < sealed_length ? "truncated" : "longer than sealed", sealed_length,
                        found_length));
  }
  uint64_t length = 0;
  const XXH128_canonical_t payload_hash = hash_payload(file, length);
  if (length != sealed_length ||
      std::memcmp(&payload_hash, block.data() + kPayloadHashOffset, sizeof payload_hash) != 0) {
    damaged("damaged: the checksum of the content differs from the sealed one");
  }
  return SealState::kSealed;
}

std::optional<SealState> apparent_state(const std::string& path, ErrorKind kind) {
  const Descriptor file(path, O_RDONLY, kind);
  std::array<char, kMagic.size()> start{};
  const std::span<const char> present(start.data(), file.read_at(0, start));
  if (starts_with(present, kMagic)) return SealState::kSealed;
  return starts_with(present, kHdf5Signature) ? std::optional(SealState::kUnsealed) : std::nullopt;
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
