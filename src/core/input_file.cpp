// Reading through zlib, which passes plain files on as they are, and zstd.
#include "lockstep/core/input_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

namespace lockstep {

namespace {
// Deflate codes at most 258 bytes in 2 bits; zstd at most 128 KiB in a block of 4 bytes.
constexpr int64_t kMostGzipExpansion = 1032, kMostZstdExpansion = int64_t{1} << 15;
constexpr unsigned kBufferBytes = 256 * 1024;
constexpr std::array<unsigned char, 4> kZstdMagic = {0x28, 0xB5, 0x2F, 0xFD};

// What may stand before and between zstd's frames: pzstd begins its files with one.
bool is_skippable_frame(const std::array<unsigned char, 4>& magic) {
  return (magic[0] & 0xF0) == 0x50 && magic[1] == 0x2A && magic[2] == 0x4D && magic[3] == 0x18;
}

[[noreturn]] void fail_open(const std::string& path) {
  fail(ErrorKind::kData, fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
}
}  // namespace

struct InputFile::Stream {
  virtual ~Stream() = default;
  // Up to `bytes`; fewer only at the end.
  virtual size_t read(void* bytes_out, size_t bytes) = 0;
  virtual int64_t stored_offset() = 0;
};

struct InputFile::PlainOrGzip final : Stream {
  explicit PlainOrGzip(const std::string& name) : path(name), file(gzopen(name.c_str(), "rb")) {
    if (file == nullptr) fail_open(path);
    gzbuffer(file, kBufferBytes);
    compressed = gzdirect(file) == 0;
  }
  ~PlainOrGzip() override { gzclose(file); }

  size_t read(void* bytes_out, size_t bytes) override {
    constexpr size_t kMostAtOnce = size_t{1} << 30;  // gzread counts in int
    size_t done = 0;
    while (done < bytes) {
      const auto wanted = static_cast<unsigned>(std::min(bytes - done, kMostAtOnce));
      const int got = gzread(file, static_cast<char*>(bytes_out) + done, wanted);
      int status = Z_OK;
      const char* message = gzerror(file, &status);
      if (got < 0 || status == Z_BUF_ERROR) {
        std::string reason = status == Z_ERRNO ? std::strerror(errno) : message;
        if (reason.starts_with(path + ": ")) reason.erase(0, path.size() + 2);
        fail(ErrorKind::kData,
             fmt::format("{}: {} at byte {}: {}", path,
                         compressed ? "corrupted gzip stream" : "cannot be read", stored_offset(), reason));
      }
      done += static_cast<size_t>(got);
      if (static_cast<unsigned>(got) < wanted) break;
    }
    return done;
  }
  int64_t stored_offset() override { return static_cast<int64_t>(gzoffset(file)); }

  const std::string& path;
  gzFile file;
  bool compressed = false;
};

struct InputFile::Zstd final : Stream {
  explicit Zstd(const std::string& name) : path(name), file(std::fopen(name.c_str(), "rbe")) {
    if (file == nullptr) fail_open(path);
    context = ZSTD_createDStream();
    if (context == nullptr) {
      std::fclose(file);
      throw std::bad_alloc();
    }
  }
  ~Zstd() override {
    ZSTD_freeDStream(context);
    std::fclose(file);
  }

  size_t read(void* bytes_out, size_t bytes) override {
    ZSTD_outBuffer out{bytes_out, bytes, 0};
    while (out.pos < out.size) {
      if (in.pos == in.size && !refill()) {
        // Some of what was read may be inside of the context still.
        const size_t before = out.pos;
        if (!inside_frame) break;
        decompress(out);
        if (out.pos == before && inside_frame) refuse("ends in the middle");
        continue;
      }
      decompress(out);
    }
    return out.pos;
  }
  int64_t stored_offset() override { return done + static_cast<int64_t>(in.pos); }

  bool refill() {
    done += static_cast<int64_t>(in.size);
    in = {buffer.data(), std::fread(buffer.data(), 1, buffer.size(), file), 0};
    if (in.size == 0 && std::ferror(file) != 0) fail_open(path);
    return in.size > 0;
  }
  void decompress(ZSTD_outBuffer& out) {
    const size_t result = ZSTD_decompressStream(context, &out, &in);
    if (ZSTD_isError(result) != 0) refuse(ZSTD_getErrorName(result));
    inside_frame = result != 0;  // frames may follow each other
  }
  [[noreturn]] void refuse(const char* reason) {
    fail(ErrorKind::kData,
         fmt::format("{}: corrupted zstd stream at byte {}: {}", path, stored_offset(), reason));
  }

  const std::string& path;
  std::FILE* file;
  ZSTD_DStream* context = nullptr;
  std::vector<char> buffer = std::vector<char>(kBufferBytes);
  ZSTD_inBuffer in{buffer.data(), 0, 0};
  int64_t done = 0;  // before what is in the buffer
  bool inside_frame = false;
};

int64_t checked_file_size(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    fail(ErrorKind::kData, fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  }
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::kData, fmt::format("{}: is not a regular file", path));
  if (status.st_size == 0) fail(ErrorKind::kData, fmt::format("{}: is empty", path));
  return status.st_size;
}

InputFile::InputFile(const std::string& path) : path_(path) {
  const int64_t size = checked_file_size(path);
  auto plain = std::make_unique<PlainOrGzip>(path_);
  compressed_ = plain->compressed;
  most_bytes_ = compressed_ ? size * kMostGzipExpansion : size;
  std::array<unsigned char, kZstdMagic.size()> start{};
  if (!compressed_ && plain->read(start.data(), start.size()) == start.size() &&
      (start == kZstdMagic || is_skippable_frame(start))) {
    compressed_ = true;
    most_bytes_ = size * kMostZstdExpansion;
    stream_ = std::make_unique<Zstd>(path_);
    return;
  }
  if (!compressed_) gzrewind(plain->file);
  stream_ = std::move(plain);
}

InputFile::~InputFile() = default;

int64_t InputFile::stored_offset() const {
  return stream_->stored_offset();
}

size_t InputFile::read_up_to(void* bytes_out, size_t bytes) {
  const size_t got = stream_->read(bytes_out, bytes);
  offset_ += static_cast<int64_t>(got);
  return got;
}

void InputFile::read(void* bytes_out, size_t bytes, const char* what) {
  const int64_t start = offset_;
  const size_t got = read_up_to(bytes_out, bytes);
  if (got != bytes) {
    fail(ErrorKind::kData,
         fmt::format("{}: truncated: {} from byte {} need {} bytes: the file ends at byte {}", path_, what,
                     start, bytes, offset_));
  }
}

void InputFile::expect_end() {
  char byte = 0;
  const int64_t end = offset_;
  if (read_up_to(&byte, 1) != 0) {
    fail(ErrorKind::kData, fmt::format("{}: must end at byte {}: more bytes follow", path_, end));
  }
}

}  // namespace lockstep
