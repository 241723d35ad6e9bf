// Starting commands, and telling how they ended.
#include "lockstep/train/after_save.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "lockstep/comm/neighbours.h"
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

// A shell in a process group of its own, no worker of the job, with none of this process's descriptors:
// mpirun waits for whoever has the stderr that it has given to a worker. input, output: -1: /dev/null. errno,
// or 0.
int start_shell(const std::string& command, int input, int output, pid_t& child) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  for (const auto& [descriptor, from] :
       {std::pair(STDIN_FILENO, input), {STDOUT_FILENO, output}, {STDERR_FILENO, output}}) {
    if (from < 0) {
      posix_spawn_file_actions_addopen(&files, descriptor, "/dev/null", O_RDWR, 0);
    } else {
      posix_spawn_file_actions_adddup2(&files, from, descriptor);
    }
  }
  posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
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
  std::vector<std::string> variables = environment_of_no_worker();
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);
  const int error =
      ::posix_spawn(&child, "/bin/sh", &files, &attributes, arguments.data(), environment.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return error;
}

// As waitpid, but signals do not end it.
pid_t wait_for(pid_t child, int& status, int options = 0) {
  for (;;) {
    const pid_t ended = ::waitpid(child, &status, options);
    if (ended >= 0 || errno != EINTR) return ended;
  }
}

// Leaves the pipe to a process that reads what still comes, for as long as somebody writes: nobody has to
// wait there, or is ended by it, when this process is gone.
void read_away(int pipe) {
  pid_t child = 0;
  int status = 0;
  if (start_shell("exec 3<&0; cat <&3 3<&- >/dev/null &", pipe, -1, child) == 0) wait_for(child, status);
}

// Takes up to `most` bytes out of the pipe and to stderr; how many, 0 at its end.
size_t copy_some(int pipe, size_t most) {
  std::array<char, size_t{1} << 16> bytes{};
  ssize_t count = 0;
  do {
    count = ::read(pipe, bytes.data(), std::min(most, bytes.size()));
  } while (count < 0 && errno == EINTR);
  for (ssize_t done = 0; done < count;) {
    const ssize_t written = ::write(STDERR_FILENO, bytes.data() + done, static_cast<size_t>(count - done));
    if (written >= 0) {
      done += written;
    } else if (errno == EAGAIN) {
      pollfd room{STDERR_FILENO, POLLOUT, 0};
      ::poll(&room, 1, static_cast<int>(kLook.count()));
    } else if (errno != EINTR) {
      break;  // nobody reads the log any more
    }
  }
  return count > 0 ? static_cast<size_t>(count) : 0;
}

// Shared with the thread, which is left behind when a command takes too long.
struct Queue {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::string> commands;  // the first is running
  bool ends = false;
  bool left = false;  // the one that is running is left to itself
  int output = -1;    // the pipe that its output comes through, where there is one

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
      left = false;
      changed.notify_all();
    }
  }

  // Runs it to its end. What went wrong, or nothing.
  std::string run(const std::string& command) {
    std::array<int, 2> ends_of_pipe{};
    if (::pipe2(ends_of_pipe.data(), O_CLOEXEC) != 0)
      return "cannot be started: " + std::system_category().message(errno);
    const auto [pipe, theirs] = ends_of_pipe;
    set_output(pipe);
    pid_t child = 0;
    const int error = start_shell(command, -1, theirs, child);
    ::close(theirs);
    int status = 0;
    pid_t ended = 0;
    if (error == 0) ended = copy_until_end(child, pipe, status);
    set_output(-1);
    ::close(pipe);
    if (error == 0 && ended == 0) ended = wait_for(child, status);
    if (error != 0) return "cannot be started: " + std::system_category().message(error);
    if (ended < 0) return "cannot be waited for: " + std::system_category().message(errno);
    if (WIFSIGNALED(status)) return fmt::format("was ended by signal {}", WTERMSIG(status));
    if (WEXITSTATUS(status) != 0) return fmt::format("ended with exit code {}", WEXITSTATUS(status));
    return "";
  }

  // Until the command has ended, or there is nothing more to copy: 0 then.
  pid_t copy_until_end(pid_t child, int pipe, int& status) {
    for (;;) {
      pollfd some{pipe, POLLIN, 0};
      const int ready = ::poll(&some, 1, static_cast<int>(kLook.count()));
      {
        const std::lock_guard lock(mutex);
        if (left) return 0;
      }
      if (ready > 0 && copy_some(pipe, SIZE_MAX) == 0) return 0;
      if (const pid_t ended = wait_for(child, status, WNOHANG); ended != 0) {
        // What it has written is in the pipe; what it has left in the background may write on.
        int there = 0;
        ::ioctl(pipe, FIONREAD, &there);
        for (size_t rest = static_cast<size_t>(there), count = 1; rest > 0 && count > 0; rest -= count)
          count = copy_some(pipe, rest);
        some.revents = 0;
        if (::poll(&some, 1, 0) >= 0 && (some.revents & POLLHUP) == 0) read_away(pipe);
        return ended;
      }
    }
  }

  void set_output(int pipe) {
    const std::lock_guard lock(mutex);
    output = pipe;
    if (left && output >= 0) read_away(output);
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
    queue.left = true;
    if (queue.output >= 0) read_away(queue.output);
    return;
  }
}

}  // namespace lockstep
