// Reading plain files, and through zlib and zstd.
#include "lockstep/core/input_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include "lockstep/core/available_memory.h"

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

// A file as it is.
struct InputFile::Plain final : Stream {
  Plain(const std::string& name, Kind kind) : path(name) {
    const bool standard_input = kind == Kind::kPipe && name == kStandardInput;
    file = standard_input ? ::fdopen(::dup(STDIN_FILENO), "rb") : std::fopen(name.c_str(), "rbe");
    if (file == nullptr) fail_open(path);
  }
  ~Plain() override { std::fclose(file); }

  void look() { present = next(beginning.data(), beginning.size()); }

  size_t read(void* bytes_out, size_t bytes) override {
    const size_t known = std::min(bytes, present - taken);
    std::memcpy(bytes_out, beginning.data() + taken, known);
    taken += known;
    const size_t got = known + next(static_cast<char*>(bytes_out) + known, bytes - known);
    done += static_cast<int64_t>(got);
    return got;
  }
  int64_t stored_offset() override { return done; }
  size_t next(void* bytes_out, size_t bytes) {
    const size_t got = std::fread(bytes_out, 1, bytes, file);
    if (got < bytes && std::ferror(file) != 0) fail_open(path);
    return got;
  }

  const std::string& path;
  std::FILE* file = nullptr;
  // What tells compressed ones apart: a pipe gives it once. Bytes of it that the file has, and that were
  // read.
  std::array<unsigned char, kZstdMagic.size()> beginning{};
  size_t present = 0, taken = 0;
  int64_t done = 0;
};

// What a compressed stream takes from its file, a buffer at a time.
struct InputFile::Packed : Stream {
  explicit Packed(std::unique_ptr<Plain> packed) : file(std::move(packed)) {}
  // False at the end of the file.
  bool refill() {
    size = file->read(buffer.data(), buffer.size());
    return size > 0;
  }
  [[noreturn]] void refuse(const char* kind, const char* reason) {
    fail(ErrorKind::kData,
         fmt::format("{}: corrupted {} stream at byte {}: {}", file->path, kind, stored_offset(), reason));
  }

  std::unique_ptr<Plain> file;
  std::vector<char> buffer = std::vector<char>(kBufferBytes);
  size_t size = 0;  // of what is in the buffer
};

// Members that follow each other, and zeros behind the last one: tapes have them. zlib's own reader of files
// passes over whatever else follows, a further member with a damaged header included.
struct InputFile::Gzip final : Packed {
  explicit Gzip(std::unique_ptr<Plain> packed) : Packed(std::move(packed)) {
    constexpr int kHeaderOfGzip = 15 + 16;
    if (inflateInit2(&stream, kHeaderOfGzip) != Z_OK) throw std::bad_alloc();
  }
  ~Gzip() override { inflateEnd(&stream); }

  size_t read(void* bytes_out, size_t bytes) override {
    constexpr size_t kMostAtOnce = size_t{1} << 30;  // zlib counts in unsigned int
    size_t done = 0;
    while (done < bytes) {
      if (stream.avail_in == 0) {
        if (!refill()) {
          if (inside) refuse("gzip", "ends in the middle");
          break;
        }
        stream.next_in = reinterpret_cast<Bytef*>(buffer.data());
        stream.avail_in = static_cast<uInt>(size);
      }
      if (!inside && behind && *stream.next_in == 0) {
        ++stream.next_in;
        --stream.avail_in;
        continue;
      }
      inside = true;
      const auto room = static_cast<uInt>(std::min(bytes - done, kMostAtOnce));
      stream.next_out = static_cast<Bytef*>(bytes_out) + done;
      stream.avail_out = room;
      const int result = inflate(&stream, Z_NO_FLUSH);
      done += room - stream.avail_out;
      if (result == Z_STREAM_END) {
        inside = false;
        behind = true;
        inflateReset(&stream);
      } else if (result != Z_OK) {
        refuse("gzip", stream.msg != nullptr ? stream.msg : zError(result));
      }
    }
    return done;
  }
  int64_t stored_offset() override { return file->stored_offset() - static_cast<int64_t>(stream.avail_in); }

  z_stream stream{};
  bool inside = false, behind = false;  // of a member
};

struct InputFile::Zstd final : Packed {
  explicit Zstd(std::unique_ptr<Plain> packed) : Packed(std::move(packed)), context(ZSTD_createDStream()) {
    if (context == nullptr) throw std::bad_alloc();
    // zstd's own limit is 27. Large collections are packed with --long=31, which takes two gigabytes to
    // unpack.
    const auto half = static_cast<uint64_t>(std::max<int64_t>(1, AvailableMemory().bytes() / 2));
    const int most = std::clamp(static_cast<int>(std::bit_width(half)) - 1, 27, 31);
    ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, most);
  }
  ~Zstd() override { ZSTD_freeDStream(context); }

  size_t read(void* bytes_out, size_t bytes) override {
    ZSTD_outBuffer out{bytes_out, bytes, 0};
    while (out.pos < out.size) {
      if (in.pos == in.size) {
        const bool more = refill();
        in = {buffer.data(), size, 0};
        if (!more) {
          // Some of what was read may be inside of the context still.
          const size_t before = out.pos;
          if (!inside_frame) break;
          decompress(out);
          if (out.pos == before && inside_frame) refuse("zstd", "ends in the middle");
          continue;
        }
      }
      decompress(out);
    }
    return out.pos;
  }
  int64_t stored_offset() override { return file->stored_offset() - static_cast<int64_t>(in.size - in.pos); }

  void decompress(ZSTD_outBuffer& out) {
    const size_t result = ZSTD_decompressStream(context, &out, &in);
    if (ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge) {
      fail(ErrorKind::kData,
           file->path + ": its zstd window needs more memory than there is: pack it again without --long");
    }
    if (ZSTD_isError(result) != 0) refuse("zstd", ZSTD_getErrorName(result));
    inside_frame = result != 0;  // frames may follow each other
  }

  ZSTD_DStream* context;
  ZSTD_inBuffer in{nullptr, 0, 0};
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

InputFile::InputFile(const std::string& path, Kind kind) : path_(path) {
  const bool pipe = kind == Kind::kPipe;
  if (!pipe) most_bytes_ = checked_file_size(path);
  auto plain = std::make_unique<Plain>(path_, kind);
  plain->look();
  const auto& start = plain->beginning;
  const bool gzip = plain->present >= 2 && start[0] == 0x1F && start[1] == 0x8B;
  const bool zstd = plain->present == start.size() && (start == kZstdMagic || is_skippable_frame(start));
  compressed_ = gzip || zstd;
  if (gzip) {
    most_bytes_ *= kMostGzipExpansion;
    stream_ = std::make_unique<Gzip>(std::move(plain));
  } else if (zstd) {
    most_bytes_ *= kMostZstdExpansion;
    stream_ = std::make_unique<Zstd>(std::move(plain));
  } else {
    stream_ = std::move(plain);
  }
  if (pipe) most_bytes_ = std::numeric_limits<int64_t>::max();
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
