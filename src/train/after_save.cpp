// Starting commands, and telling how they ended.
#include "lockstep/train/after_save.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "lockstep/core/log.h"

namespace lockstep {

namespace {

constexpr double kSayAfter = 3.0;  // seconds
constexpr std::chrono::milliseconds kLook(100);

// In single quotes, within which a shell takes everything as it is but their end.
std::string quoted(const std::string& path) {
  std::string text = "'";
  for (const char c : path) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string with_path(std::string command, const std::string& path) {
  const std::string place = quoted(path);
  for (size_t at = command.find("{}"); at != std::string::npos; at = command.find("{}", at + place.size()))
    command.replace(at, 2, place);
  return command;
}

// Runs it to its end. What went wrong, or nothing.
std::string run(const std::string& command) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  std::array<std::string, 3> words = {"sh", "-c", command};
  const std::array<char*, 4> arguments = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  pid_t child = 0;
  const int error = ::posix_spawn(&child, "/bin/sh", &files, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) return "cannot be started: " + std::system_category().message(error);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return "cannot be waited for: " + std::system_category().message(errno);
  }
  if (WIFSIGNALED(status)) return fmt::format("was ended by signal {}", WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) return fmt::format("ended with exit code {}", WEXITSTATUS(status));
  return "";
}

}  // namespace

namespace {

// Shared with the thread, which is left behind when a command takes too long.
struct Queue {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::string> commands;  // the first is running
  bool ends = false;

  void run_all() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return ends || !commands.empty(); });
      if (commands.empty()) return;
      const std::string command = commands.front();
      lock.unlock();
      if (const std::string wrong = run(command); !wrong.empty())
        log_warning(fmt::format("checkpoint.after_save: '{}' {}", command, wrong));
      lock.lock();
      commands.pop_front();
      changed.notify_all();
    }
  }
};

}  // namespace

struct AfterSave::Impl {
  std::string command;
  double seconds;
  std::shared_ptr<Queue> queue;
  std::thread thread;
  bool gave_up = false;
  const int exceptions = std::uncaught_exceptions();
};

AfterSave::AfterSave(std::string command, double seconds)
    : impl_(new Impl{std::move(command), seconds, {}, {}}) {
  if (impl_->command.empty()) return;
  impl_->queue = std::make_shared<Queue>();
  impl_->thread = std::thread([queue = impl_->queue] { queue->run_all(); });
}

AfterSave::~AfterSave() {
  if (impl_->queue == nullptr) return;
  // Of a run that fails others wait for the reason, and would take this worker for lost.
  finish([this] { return std::uncaught_exceptions() > impl_->exceptions; });
  bool idle = false;
  {
    const std::lock_guard lock(impl_->queue->mutex);
    idle = impl_->queue->commands.empty();
    impl_->queue->ends = true;
    impl_->queue->changed.notify_all();
  }
  if (idle) {
    impl_->thread.join();
  } else {
    impl_->thread.detach();
  }
}

void AfterSave::saved(const std::string& path) {
  if (impl_->queue == nullptr) return;
  const std::lock_guard lock(impl_->queue->mutex);
  impl_->queue->commands.push_back(with_path(impl_->command, path));
  impl_->queue->changed.notify_all();
}

void AfterSave::finish(const std::function<bool()>& gives_up) {
  if (impl_->queue == nullptr || impl_->gave_up) return;
  Queue& queue = *impl_->queue;
  const auto begin = std::chrono::steady_clock::now();
  const auto waited = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  bool said = false;
  std::unique_lock lock(queue.mutex);
  while (!queue.changed.wait_for(lock, kLook, [&] { return queue.commands.empty(); })) {
    if (!said && waited() >= kSayAfter) {
      said = true;
      log_info(fmt::format("waiting for '{}' (checkpoint.after_save)", queue.commands.front()));
    }
    if (waited() < impl_->seconds && !(gives_up && gives_up())) continue;
    impl_->gave_up = true;
    log_warning(fmt::format("checkpoint.after_save: '{}' is still running and left to itself after {:.0f} s",
                            queue.commands.front(), waited()));
    for (size_t i = 1; i < queue.commands.size(); ++i)
      log_warning(fmt::format("checkpoint.after_save: '{}' was not run", queue.commands[i]));
    queue.commands.resize(1);  // which the thread takes off
    return;
  }
}

}  // namespace lockstep
