// Reading, writing and placing files that travel.
#include "lockstep/checkpoint/transfer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;

[[noreturn]] void fail_errno(const std::string& path, const char* rule, int error) {
  fail(ErrorKind::kCheckpoint, fmt::format("{}: {}: {}", path, rule, std::generic_category().message(error)));
}

int open_to_read(const std::string& path) {
  return ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

// Of a regular file; -1: it is none.
int64_t size_of_file(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) ? status.st_size : -1;
}

// Fills `bytes` from `offset` on. False where the file ends before, or cannot be read: errno, 0 at its end.
bool read_all(int descriptor, int64_t offset, std::span<std::byte> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::pread(descriptor, bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (count > 0) {
      done += static_cast<size_t>(count);
    } else if (count == 0) {
      errno = 0;
      return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

int64_t next_part(const TransferOutline& outline, int64_t done) {
  return std::min(outline.part(), outline.total() - done);
}

}  // namespace

int64_t TransferOutline::part() const {
  constexpr int64_t kParts = 24, kLargest = 64 * kMebibyte;
  const int64_t share = (total() / kParts + kMebibyte - 1) / kMebibyte * kMebibyte;
  return std::clamp(share, kMebibyte, kLargest);
}

bool is_file_of(const TransferOutline& outline, const std::string& path) {
  const int descriptor = open_to_read(path);
  if (descriptor < 0) return false;
  std::array<char, kSealBytes> seal{};
  const bool same = size_of_file(descriptor) == outline.bytes &&
                    read_all(descriptor, 0, std::as_writable_bytes(std::span(seal))) && seal == outline.seal;
  ::close(descriptor);
  return same;
}

OutgoingCheckpoint::OutgoingCheckpoint(const std::string& path, int64_t step, int64_t best,
                                       const std::string& metrics, int64_t begin, int64_t end)
    : path_(path), file_(open_to_read(path)) {
  if (file_ < 0) fail_errno(path, "cannot open", errno);
  outline_.step = step;
  outline_.best = best;
  outline_.bytes = size_of_file(file_);
  if (outline_.bytes < kSealBytes || !read_all(file_, 0, std::as_writable_bytes(std::span(outline_.seal)))) {
    ::close(file_);
    fail(ErrorKind::kCheckpoint, path + ": cannot be sent: not a sealed file");
  }
  metrics_ = open_to_read(metrics);
  if (metrics_ < 0 || size_of_file(metrics_) < end) return;
  outline_.metrics_begin = begin;
  outline_.metrics_end = std::max(begin, end);
}

OutgoingCheckpoint::~OutgoingCheckpoint() {
  ::close(file_);
  if (metrics_ >= 0) ::close(metrics_);
}

int64_t OutgoingCheckpoint::next_bytes() const {
  return next_part(outline_, done_);
}

std::vector<std::byte> OutgoingCheckpoint::next() {
  std::vector<std::byte> part(static_cast<size_t>(next_bytes()));
  const auto of_file = static_cast<size_t>(std::clamp<int64_t>(outline_.bytes - done_, 0, std::ssize(part)));
  const std::span<std::byte> bytes(part);
  const int64_t line = outline_.metrics_begin + std::max<int64_t>(done_ - outline_.bytes, 0);
  if (!read_all(file_, done_, bytes.first(of_file))) fail_errno(path_, "cannot be read to be sent", errno);
  if (!read_all(metrics_, line, bytes.subspan(of_file)))
    fail_errno(path_, "the lines of metrics.jsonl beside it cannot be read", errno);
  done_ += std::ssize(part);
  return part;
}

IncomingCheckpoint::IncomingCheckpoint(const TransferOutline& outline, std::string path, std::string metrics)
    : outline_(outline),
      path_(std::move(path)),
      metrics_(std::move(metrics)),
      temporary_(temporary_path(path_)) {
  ::unlink(temporary_.c_str());  // of a process of the same number
  file_.emplace(temporary_, ErrorKind::kCheckpoint);
}

IncomingCheckpoint::~IncomingCheckpoint() {
  file_.reset();
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

int64_t IncomingCheckpoint::next_bytes() const {
  return next_part(outline_, done_);
}

void IncomingCheckpoint::add(std::span<const std::byte> part) {
  if (file_->append(reinterpret_cast<const char*>(part.data()), part.size()) != part.size())
    fail_errno(path_, "cannot be written", errno);
  done_ += std::ssize(part);
}

bool IncomingCheckpoint::place_metrics() {
  std::vector<std::byte> lines(static_cast<size_t>(outline_.metrics_end - outline_.metrics_begin));
  if (lines.empty()) return outline_.metrics_begin > 0;
  if (!read_all(file_->descriptor(), outline_.bytes, lines)) return false;
  const auto append = [&](const OutputFile& file) {
    return file.append(reinterpret_cast<const char*>(lines.data()), lines.size()) == lines.size();
  };
  try {
    if (outline_.metrics_begin == 0) {
      replace_file(metrics_, ErrorKind::kCheckpoint, append);
      return true;
    }
    const OutputFile file(metrics_, ErrorKind::kCheckpoint);
    if (size_of_file(file.descriptor()) < outline_.metrics_begin) return false;
    if (::ftruncate(file.descriptor(), outline_.metrics_begin) == 0 && append(file)) return true;
    log_warning(fmt::format("{}: cannot be written: {}", metrics_, std::generic_category().message(errno)));
  } catch (const Error& error) {
    log_warning(error.what());
  }
  return false;
}

int64_t IncomingCheckpoint::place() {
  if (done_ != outline_.total()) fail(ErrorKind::kCheckpoint, path_ + ": not all of it has come");
  const bool lines = place_metrics();
  if (::ftruncate(file_->descriptor(), outline_.bytes) != 0) fail_errno(path_, "cannot be written", errno);
  verify_seal(temporary_, ErrorKind::kCheckpoint, true);
  file_.reset();
  commit_file(std::exchange(temporary_, ""), path_, ErrorKind::kCheckpoint);
  return lines ? outline_.metrics_end : 0;
}

}  // namespace lockstep
