// Naming, retention and background writing of checkpoint files.
#include "lockstep/checkpoint/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <future>
#include <new>
#include <string_view>
#include <system_error>
#include <thread>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

namespace {

namespace fs = std::filesystem;

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
  std::error_code ignored;
  for (const std::string& name : names_in(directory)) {
    const std::optional<int64_t> step = step_in(name);
    if (step && !fs::is_directory(fs::path(directory) / name, ignored)) steps.push_back(*step);
  }
  std::ranges::sort(steps, std::ranges::greater());
  return steps;
}

void remove_stale_temporaries(const std::string& directory, bool alone) {
  for (const std::string& name : names_in(directory)) {
    const std::optional<int64_t> process = process_in(name);
    if (!process) continue;
    // In a container every run may have the same number, so an own file from before this store is stale too.
    // (Above the 32 bits of a process stands which writer it was.)
    const auto pid = static_cast<pid_t>(*process);
    if (!alone && pid != ::getpid() && (::kill(pid, 0) == 0 || errno != ESRCH)) continue;
    ::unlink((fs::path(directory) / name).c_str());
    log_info(fmt::format("{}: removed, an interrupted write left it", (fs::path(directory) / name).string()));
  }
}

// What stands where a checkpoint is due and cannot be replaced by a file makes way.
void clear_way(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(fs::symlink_status(path, error))) return;
  std::string other = path + ".directory";
  for (int number = 2; fs::exists(fs::symlink_status(other, error)); ++number)
    other = fmt::format("{}.directory-{}", path, number);
  fs::rename(path, other, error);
  // Else the write fails, and says why.
  if (!error)
    log_warning(fmt::format("{}: a directory where a checkpoint is due: is {} from now on", path, other));
}

// The checkpoints of an earlier run that --overwrite has set aside until there is one of the new run. They
// lie in DIRECTORY/.overwritten when all are there, and in DIRECTORY/.overwritten.moving while they move,
// there or back: whenever the process dies, the next store knows what to do from the names alone.
class Overwritten {
 public:
  Overwritten(const std::string& directory, std::vector<std::string> beside)
      : directory_(directory),
        beside_(std::move(beside)),
        aside_(directory_ / ".overwritten"),
        moving_(directory_ / ".overwritten.moving") {}

  void move_out() const {
    std::error_code error;
    fs::create_directory(moving_, error);
    for (const int64_t step : error ? std::vector<int64_t>() : steps_in(directory_.string())) {
      fs::rename(directory_ / file_name(step), moving_ / file_name(step), error);
      if (error) break;
    }
    std::error_code ignored;  // a checkpoint is worth something without what is beside it
    if (!error) move_beside(directory_, moving_, ignored);
    if (!error) fs::rename(moving_, aside_, error);
    if (!error) return;
    const std::string reason = error.message();
    move_back();
    fail(ErrorKind::kUsage,
         fmt::format("{}: --overwrite: cannot set its checkpoints aside: {}; nothing was deleted",
                     directory_.string(), reason));
  }

  // After a run that came to no checkpoint of its own, or died while they moved.
  void move_back() const {
    std::error_code error;
    if (holds_checkpoints(aside_)) fs::rename(aside_, moving_, error);
    bring_back();
  }

  void remove() const {
    std::error_code error;
    if (!fs::is_directory(aside_, error)) return;
    for (const int64_t step : steps_in(aside_.string())) {
      fs::remove(aside_ / file_name(step), error);
      if (error)
        log_warning(
            fmt::format("{}: cannot remove: {}", (aside_ / file_name(step)).string(), error.message()));
    }
    for (const std::string& name : beside_) fs::remove(aside_ / name, error);
    fs::remove(aside_, error);  // unless somebody else has put something there
  }

  // What the run before left undone.
  void recover() const {
    bring_back();
    if (holds_checkpoints(aside_) && steps_in(directory_.string()).empty()) {
      move_back();
    } else {
      remove();
    }
  }

 private:
  static bool holds_checkpoints(const fs::path& directory) {
    std::error_code error;
    return fs::is_directory(directory, error) && !steps_in(directory.string()).empty();
  }

  void bring_back() const {
    std::error_code error;
    if (!fs::is_directory(moving_, error)) return;
    for (const int64_t step : steps_in(moving_.string())) {
      fs::rename(moving_ / file_name(step), directory_ / file_name(step), error);
      if (error) {
        log_warning(fmt::format("{}: cannot be moved back to {}: {}", (moving_ / file_name(step)).string(),
                                directory_.string(), error.message()));
        return;
      }
    }
    move_beside(moving_, directory_, error);
    if (error)
      log_warning(fmt::format("{}: cannot be moved back to {}: {}", moving_.string(), directory_.string(),
                              error.message()));
    fs::remove(moving_, error);
  }

  void move_beside(const fs::path& from, const fs::path& to, std::error_code& error) const {
    std::error_code absent;
    for (const std::string& name : beside_) {
      if (fs::exists(fs::symlink_status(from / name, absent))) fs::rename(from / name, to / name, error);
    }
  }

  fs::path directory_;
  std::vector<std::string> beside_;
  fs::path aside_, moving_;
};

}  // namespace

std::string checkpoint_path(const std::string& directory, int64_t step) {
  return (fs::path(directory) / file_name(step)).string();
}

std::vector<int64_t> checkpoint_steps(const std::string& directory) {
  return steps_in(directory);
}

struct CheckpointStore::Impl {
  explicit Impl(const StoreOptions& given) : options(given), overwritten(given.directory, given.beside) {}

  StoreOptions options;
  Overwritten overwritten;
  std::atomic<bool> set_aside = false;  // and no checkpoint of this run is in place yet
  std::future<void> write;  // the one in progress, or the outcome of the last one until somebody has taken it

  std::string path_of(int64_t step) const { return checkpoint_path(options.directory, step); }

  void remove_outdated(int64_t written, int64_t best) const {
    if (options.keep == 0) return;
    int64_t kept = 0;
    for (int64_t step : steps_in(options.directory)) {
      if (step > written || ++kept <= options.keep || step == best) continue;
      if (options.keep_every > 0 && step % options.keep_every == 0) continue;
      std::error_code error;
      fs::remove(path_of(step), error);
      if (error) log_warning(fmt::format("{}: cannot remove: {}", path_of(step), error.message()));
    }
  }
};

CheckpointStore::CheckpointStore(const StoreOptions& options) : impl_(std::make_unique<Impl>(options)) {
  create_output_directory(options.directory);
  if (::access(options.directory.c_str(), W_OK | X_OK) != 0) {
    fail(ErrorKind::kUsage, fmt::format("{}: cannot write to the directory: {}", options.directory,
                                        std::generic_category().message(errno)));
  }
  remove_stale_temporaries(options.directory, options.alone);
  impl_->overwritten.recover();
}

CheckpointStore::~CheckpointStore() {
  try {
    finish();
  } catch (const std::exception& error) {
    log_error(error.what());
  }
  try {
    if (impl_->set_aside) impl_->overwritten.move_back();
  } catch (const std::exception& error) {
    log_warning(error.what());
  }
}

std::string CheckpointStore::path_of(int64_t step) const {
  return impl_->path_of(step);
}

void CheckpointStore::save(int64_t step, State snapshot, int64_t best, bool waits) {
  adopt(
      step,
      [queued = std::make_shared<State>(std::move(snapshot))](const std::string& path) {
        // Gives the memory back when written, not when somebody asks for the outcome.
        const State state = std::move(*queued);
        write_checkpoint(state, path);
      },
      best, waits);
}

void CheckpointStore::adopt(int64_t step, std::function<void(const std::string&)> place, int64_t best,
                            bool waits) {
  if (step < 0) fail(ErrorKind::kInternal, fmt::format("checkpoint: step {}: must not be negative", step));
  finish();
  const auto work = [impl = impl_.get(), step, best, bring = std::move(place)] {
    if (impl->options.writes) impl->options.writes();
    clear_way(impl->path_of(step));
    try {
      bring(impl->path_of(step));
    } catch (const std::bad_alloc&) {
      fail(ErrorKind::kCheckpoint, impl->path_of(step) + ": cannot be written: out of memory");
    }
    if (impl->options.writes) impl->options.writes();
    if (impl->set_aside.exchange(false)) impl->overwritten.remove();
    if (impl->options.written) impl->options.written(impl->path_of(step));
    impl->remove_outdated(step, best);
  };
  if (!waits) {
    try {
      impl_->write = std::async(std::launch::async, work);
      return;
    } catch (const std::system_error&) {
      // No thread to be had: better now than never.
    }
  }
  std::packaged_task<void()> task(work);
  impl_->write = task.get_future();
  task();
}

bool CheckpointStore::writing() const {
  return impl_->write.valid() && impl_->write.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

void CheckpointStore::poll() {
  if (!writing()) finish();
}

void CheckpointStore::finish() {
  if (!impl_->write.valid()) return;
  const std::chrono::duration<double> interval(impl_->options.say_every);
  for (int said = 1; impl_->write.wait_for(interval) != std::future_status::ready; ++said)
    log_info(fmt::format("still saving to {}, for {:.0f} s by now", impl_->options.directory,
                         said * interval.count()));
  impl_->write.get();
}

std::optional<int64_t> CheckpointStore::newest_step() const {
  const std::vector<int64_t> steps = steps_in(impl_->options.directory);
  return steps.empty() ? std::nullopt : std::optional(steps.front());
}

void CheckpointStore::require_fresh() const {
  const std::optional<int64_t> step = newest_step();
  if (!step) return;
  fail(ErrorKind::kUsage,
       fmt::format("{}: already holds {}; continue it with --resume, delete it with --overwrite, "
                   "or choose another --output",
                   impl_->options.directory, file_name(*step)));
}

void CheckpointStore::set_aside() {
  if (steps_in(impl_->options.directory).empty()) return;
  impl_->overwritten.move_out();
  impl_->set_aside = true;
}

std::optional<std::pair<std::string, State>> CheckpointStore::load_newest(
    std::vector<std::string>& skipped) const {
  const std::vector<int64_t> steps = steps_in(impl_->options.directory);
  if (steps.empty()) return std::nullopt;
  for (int64_t step : steps) {
    const std::string path = path_of(step);
    try {
      State state = read_checkpoint(path);
      const auto held = state.scalars.find("/train/step");
      if (held != state.scalars.end() && held->second != Scalar(step)) {
        fail(ErrorKind::kCheckpoint,
             fmt::format("{}: holds step {}, not that of its name", path, to_text(held->second)));
      }
      return std::pair(path, std::move(state));
    } catch (const DamagedFile& error) {
      skipped.emplace_back(error.what());
    } catch (const std::bad_alloc&) {
      fail(ErrorKind::kCheckpoint, path + ": cannot be read: out of memory");
    }
  }
  fail(ErrorKind::kCheckpoint, fmt::format("{}: none of {} checkpoints is usable: {}",
                                           impl_->options.directory, steps.size(), fmt::join(skipped, "; ")));
}

}  // namespace lockstep
