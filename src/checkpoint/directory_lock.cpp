// A lock on an open file, and a look at what is there by its name.
#include "lockstep/checkpoint/directory_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

namespace {

namespace fs = std::filesystem;

std::string system_message(int error) {
  return std::generic_category().message(error);
}

// 0, or the error. Workers whose launcher was killed live on for a second: whoever starts the run again at
// once waits for them.
int lock_soon(int descriptor) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kPatience(3000), kLook(50);
  for (const Clock::time_point end = Clock::now() + kPatience;;) {
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno != EINTR && (errno != EWOULDBLOCK || Clock::now() > end)) return errno;
    std::this_thread::sleep_for(kLook);
  }
}

}  // namespace

void create_output_directory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  // An existing path that is no directory is no error to create_directories.
  if (!error && !fs::is_directory(directory, error) && !error)
    error = std::make_error_code(std::errc::not_a_directory);
  if (error)
    fail(ErrorKind::kUsage, fmt::format("{}: cannot create the directory: {}", directory, error.message()));
}

DirectoryLock::DirectoryLock(const std::string& directory)
    : path_((fs::path(directory) / ".lockstep.lock").string()) {
  create_output_directory(directory);
  const std::string& path = path_;
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
  if (descriptor_ < 0 && errno == ELOOP)
    fail(ErrorKind::kUsage, path + ": a symbolic link, which is not followed");
  if (descriptor_ < 0) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: cannot write to the directory: {}", directory, system_message(errno)));
  }
  if (const int error = lock_soon(descriptor_); error != 0) {
    if (error == EWOULDBLOCK) {
      std::array<char, 512> holder{};
      const ssize_t count = ::pread(descriptor_, holder.data(), holder.size(), 0);
      ::close(descriptor_);
      const std::string_view text(holder.data(), static_cast<size_t>(std::max<ssize_t>(count, 0)));
      fail(ErrorKind::kUsage,
           fmt::format("{}: in use by another run: {}", directory, text.substr(0, text.find('\n'))));
    }
    locked_ = false;
    log_warning(fmt::format("{}: cannot be locked, so nothing keeps a second run out: {}", directory,
                            system_message(error)));
  }
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  text_ = fmt::format("host {}, pid {}\n", host.data(), ::getpid());
  if (!write_text(descriptor_)) {
    const int error = errno;
    ::close(descriptor_);
    fail(ErrorKind::kUsage,
         fmt::format("{}: cannot write to the directory: {}", directory, system_message(error)));
  }
  directory_ = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

// The file stays: unlinking it would let two runs lock two files of the same name.
DirectoryLock::~DirectoryLock() {
  ::close(descriptor_);
  if (directory_ >= 0) ::close(directory_);
}

bool DirectoryLock::write_text(int descriptor) const {
  return ::ftruncate(descriptor, 0) == 0 &&
         ::pwrite(descriptor, text_.data(), text_.size(), 0) == static_cast<ssize_t>(text_.size());
}

bool DirectoryLock::taken_again() {
  struct stat held = {}, there = {};
  const bool same = directory_ >= 0 && ::fstat(directory_, &held) == 0 &&
                    ::stat(fs::path(path_).parent_path().c_str(), &there) == 0 &&
                    held.st_dev == there.st_dev && held.st_ino == there.st_ino;
  if (!same) return false;
  const int descriptor = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (descriptor < 0) return false;
  if (lock_soon(descriptor) == EWOULDBLOCK || !write_text(descriptor)) {
    ::close(descriptor);
    return false;
  }
  ::close(std::exchange(descriptor_, descriptor));
  log_warning(path_ + ": was deleted while the run went on; made anew");
  return true;
}

void DirectoryLock::require_held() {
  const std::lock_guard lock(mutex_);
  // By what is in the file: not every file system has numbers of files that stay.
  std::array<char, 512> found{};
  const int descriptor = ::open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  const int error = errno;
  const ssize_t count = descriptor < 0 ? 0 : ::pread(descriptor, found.data(), found.size(), 0);
  if (descriptor >= 0) ::close(descriptor);
  const bool gone = descriptor < 0 && error == ENOENT;
  // Alone, by somebody who took it for one that is left over: all that the run has is still there.
  if (gone && taken_again()) return;
  if (gone || (count > 0 && std::string_view(found.data(), static_cast<size_t>(count)) != text_))
    fail(ErrorKind::kCheckpoint,
         fs::path(path_).parent_path().string() + ": was deleted or replaced while the run went on");
}

}  // namespace lockstep
