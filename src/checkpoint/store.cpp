// Naming, retention and background writing of checkpoint files, and the lock of a run's directory.
#include "checkpoint/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <future>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "core/log.h"

namespace lockstep {

namespace {

namespace fs = std::filesystem;

std::string system_message(int error) {
  return std::generic_category().message(error);
}

void create_directory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  // An existing path that is no directory is no error to create_directories.
  if (!error && !fs::is_directory(directory, error) && !error)
    error = std::make_error_code(std::errc::not_a_directory);
  if (error)
    fail(ErrorKind::kUsage, fmt::format("{}: cannot create the directory: {}", directory, error.message()));
}

// A whole text as a nonnegative number.
std::optional<int64_t> parse_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::string file_name(int64_t step) {
  return fmt::format("step-{:09}.h5", step);
}

// The step whose file_name this is.
std::optional<int64_t> step_in(std::string_view name) {
  constexpr std::string_view kPrefix = "step-", kSuffix = ".h5";
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  const std::optional<int64_t> step = parse_number(digits);
  return step && file_name(*step) == name ? step : std::nullopt;
}

// The process in ".step-000001000.h5.tmp-123", as temporary_path makes it.
std::optional<int64_t> process_in(std::string_view name) {
  constexpr std::string_view kMark = ".tmp-";
  const size_t mark = name.rfind(kMark);
  if (!name.starts_with('.') || mark == std::string_view::npos || mark == 0) return std::nullopt;
  if (!step_in(name.substr(1, mark - 1))) return std::nullopt;
  return parse_number(name.substr(mark + kMark.size()));
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) fail(ErrorKind::kCheckpoint, fmt::format("{}: cannot list: {}", directory, error.message()));
  return names;
}

// Steps of the checkpoint files in the directory, newest first.
std::vector<int64_t> steps_in(const std::string& directory) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(directory)) {
    if (const std::optional<int64_t> step = step_in(name)) steps.push_back(*step);
  }
  std::ranges::sort(steps, std::ranges::greater());
  return steps;
}

void remove_stale_temporaries(const std::string& directory) {
  for (const std::string& name : names_in(directory)) {
    const std::optional<int64_t> process = process_in(name);
    if (!process) continue;
    // In a container every run may have the same number, so an own file from before this store is stale too.
    const auto pid = static_cast<pid_t>(*process);
    if (pid != ::getpid() && (::kill(pid, 0) == 0 || errno != ESRCH)) continue;
    ::unlink((fs::path(directory) / name).c_str());
    log_info(fmt::format("{}: removed, an interrupted write left it", (fs::path(directory) / name).string()));
  }
}

}  // namespace

DirectoryLock::DirectoryLock(const std::string& directory) {
  create_directory(directory);
  const std::string path = (fs::path(directory) / ".lockstep.lock").string();
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: cannot write to the directory: {}", directory, system_message(errno)));
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error == EWOULDBLOCK) {
      std::array<char, 512> holder{};
      const ssize_t count = ::pread(descriptor_, holder.data(), holder.size(), 0);
      ::close(descriptor_);
      const std::string_view text(holder.data(), static_cast<size_t>(std::max<ssize_t>(count, 0)));
      fail(ErrorKind::kUsage,
           fmt::format("{}: in use by another run: {}", directory, text.substr(0, text.find('\n'))));
    }
    log_warning(fmt::format("{}: cannot be locked, so nothing keeps a second run out: {}", directory,
                            system_message(error)));
  }
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const std::string text = fmt::format("host {}, pid {}\n", host.data(), ::getpid());
  const bool written = ::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, text.data(), text.size(),
                                                                    0) == static_cast<ssize_t>(text.size());
  if (!written) {
    const int error = errno;
    ::close(descriptor_);
    fail(ErrorKind::kUsage,
         fmt::format("{}: cannot write to the directory: {}", directory, system_message(error)));
  }
}

// The file stays: unlinking it would let two runs lock two files of the same name.
DirectoryLock::~DirectoryLock() {
  ::close(descriptor_);
}

struct CheckpointStore::Impl {
  StoreOptions options;
  std::future<void> write;  // the one in progress, or the outcome of the last one until somebody has taken it

  std::string path_of(int64_t step) const { return (fs::path(options.directory) / file_name(step)).string(); }

  void remove_outdated(int64_t written) const {
    if (options.keep == 0) return;
    int64_t kept = 0;
    for (int64_t step : steps_in(options.directory)) {
      if (step > written || ++kept <= options.keep) continue;
      if (options.keep_every > 0 && step % options.keep_every == 0) continue;
      std::error_code error;
      fs::remove(path_of(step), error);
      if (error) log_warning(fmt::format("{}: cannot remove: {}", path_of(step), error.message()));
    }
  }
};

CheckpointStore::CheckpointStore(const StoreOptions& options) : impl_(std::make_unique<Impl>()) {
  impl_->options = options;
  create_directory(options.directory);
  if (::access(options.directory.c_str(), W_OK | X_OK) != 0) {
    fail(ErrorKind::kUsage,
         fmt::format("{}: cannot write to the directory: {}", options.directory, system_message(errno)));
  }
  remove_stale_temporaries(options.directory);
}

CheckpointStore::~CheckpointStore() {
  try {
    finish();
  } catch (const std::exception& error) {
    log_error(error.what());
  }
}

std::string CheckpointStore::path_of(int64_t step) const {
  return impl_->path_of(step);
}

void CheckpointStore::save(int64_t step, State snapshot) {
  if (step < 0) fail(ErrorKind::kInternal, fmt::format("checkpoint: step {}: must not be negative", step));
  finish();
  impl_->write =
      std::async(std::launch::async, [impl = impl_.get(), step, queued = std::move(snapshot)]() mutable {
        const State state =
            std::move(queued);  // gives the memory back when written, not when somebody asks for the outcome
        write_checkpoint(state, impl->path_of(step));
        impl->remove_outdated(step);
      });
}

void CheckpointStore::poll() {
  if (impl_->write.valid() && impl_->write.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
    finish();
}

void CheckpointStore::finish() {
  if (impl_->write.valid()) impl_->write.get();
}

std::optional<int64_t> CheckpointStore::newest_step() const {
  const std::vector<int64_t> steps = steps_in(impl_->options.directory);
  return steps.empty() ? std::nullopt : std::optional(steps.front());
}

void CheckpointStore::remove_all() {
  const std::vector<int64_t> steps = steps_in(impl_->options.directory);
  std::error_code error;
  for (int64_t step : steps) {
    if (fs::is_directory(fs::symlink_status(path_of(step), error)))
      fail(ErrorKind::kUsage, path_of(step) + ": a directory with a checkpoint's name: nothing was deleted");
  }
  for (int64_t step : steps) {
    fs::remove(path_of(step), error);
    if (error)
      fail(ErrorKind::kUsage, fmt::format("{}: cannot be deleted: {}", path_of(step), error.message()));
  }
}

std::optional<std::pair<std::string, State>> CheckpointStore::load_newest(
    std::vector<std::string>& skipped) const {
  const std::vector<int64_t> steps = steps_in(impl_->options.directory);
  if (steps.empty()) return std::nullopt;
  for (int64_t step : steps) {
    const std::string path = path_of(step);
    try {
      return std::pair(path, read_checkpoint(path));
    } catch (const Error& error) {
      skipped.emplace_back(error.what());
    }
  }
  fail(ErrorKind::kCheckpoint, fmt::format("{}: none of {} checkpoints is usable: {}",
                                           impl_->options.directory, steps.size(), fmt::join(skipped, "; ")));
}

}  // namespace lockstep
