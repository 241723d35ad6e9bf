// Reading through zlib, which passes plain files on as they are.
#include "lockstep/data/input_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace lockstep {

namespace {
// Deflate codes at most 258 bytes in 2 bits.
constexpr int64_t kMostExpansion = 1032;
constexpr unsigned kBufferBytes = 256 * 1024;
}  // namespace

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
  file_ = gzopen(path.c_str(), "rb");
  if (file_ == nullptr)
    fail(ErrorKind::kData, fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  gzbuffer(file_, kBufferBytes);
  compressed_ = gzdirect(file_) == 0;
  most_bytes_ = compressed_ ? size * kMostExpansion : size;
}

InputFile::~InputFile() {
  gzclose(file_);
}

size_t InputFile::read_up_to(void* bytes_out, size_t bytes) {
  constexpr size_t kMostAtOnce = size_t{1} << 30;  // gzread counts in int
  size_t done = 0;
  while (done < bytes) {
    const auto wanted = static_cast<unsigned>(std::min(bytes - done, kMostAtOnce));
    const int got = gzread(file_, static_cast<char*>(bytes_out) + done, wanted);
    int status = Z_OK;
    const char* message = gzerror(file_, &status);
    if (got < 0 || status == Z_BUF_ERROR) {
      std::string reason = status == Z_ERRNO ? std::strerror(errno) : message;
      if (reason.starts_with(path_ + ": ")) reason.erase(0, path_.size() + 2);
      fail(ErrorKind::kData, fmt::format("{}: {} at byte {}: {}", path_,
                                         compressed_ ? "corrupted gzip stream" : "cannot be read",
                                         static_cast<int64_t>(gzoffset(file_)), reason));
    }
    done += static_cast<size_t>(got);
    offset_ += got;
    if (static_cast<unsigned>(got) < wanted) break;
  }
  return done;
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
