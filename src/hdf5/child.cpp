// Forking under the library's lock, which the only thread of the child then holds, and gives back.
#include "lockstep/hdf5/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <optional>
#include <system_error>

#include "lockstep/hdf5/library.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {

pid_t fork_between_calls() {
  const LibraryLock lock;
  return ::fork();
}

namespace {

// All that comes out of a pipe until its other end is closed; nullopt: given up before.
std::optional<std::string> said_by(int pipe, const std::function<bool()>& gives_up) {
  constexpr int kLookMilliseconds = 50;
  std::string said;
  for (;;) {
    if (gives_up && gives_up()) return std::nullopt;
    pollfd awaited{pipe, POLLIN, 0};
    if (poll(&awaited, 1, kLookMilliseconds) <= 0) continue;
    std::array<char, 4096> buffer{};
    const ssize_t count = read(pipe, buffer.data(), buffer.size());
    if (count == 0 || (count < 0 && errno != EINTR)) return said;
    if (count > 0) said.append(buffer.data(), static_cast<size_t>(count));
  }
}

// In the child: without its own word on stderr, and not for ever.
[[noreturn]] void read_alone(int64_t seconds, const std::function<std::string()>& reading, int refusal) {
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  rlimit time{};
  getrlimit(RLIMIT_CPU, &time);
  time.rlim_cur = std::min(time.rlim_max, static_cast<rlim_t>(seconds));
  setrlimit(RLIMIT_CPU, &time);
  dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
  try {
    const std::string said = reading();
    if (write(refusal, said.data(), said.size()) != std::ssize(said)) _exit(1);
  } catch (...) {
    // Found in order, so the parent can find it.
  }
  _exit(0);
}

}  // namespace

ChildReading read_in_child(const std::string& path, ErrorKind kind, int64_t seconds,
                           const std::function<std::string()>& reading,
                           const std::function<bool()>& gives_up) {
  std::error_code unknown;
  if (const uintmax_t bytes = std::filesystem::file_size(path, unknown); !unknown)
    seconds += static_cast<int64_t>(bytes >> 20);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ChildReading::kNotStarted;
  const pid_t parent = getpid(), child = fork_between_calls();
  if (child == 0) {
    close(ends[0]);
    // Whoever ends the parent does not leave it to itself.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    read_alone(seconds, reading, ends[1]);
  }
  const int error = errno;
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    errno = error;
    return ChildReading::kNotStarted;
  }
  const std::optional<std::string> refusal = said_by(ends[0], gives_up);
  close(ends[0]);
  if (!refusal) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!refusal) return ChildReading::kGivenUp;
  if (!refusal->empty()) fail(kind, *refusal);
  const auto damaged = [&](const std::string& what) {
    throw DamagedFile(kind, fmt::format("{}: damaged: reading it {}", path, what));
  };
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (signal == SIGXCPU) damaged(fmt::format("does not end within {} s of processor time", seconds));
  // Killed from outside, for want of memory say, is no verdict on the file.
  if (status != 0 && signal != SIGKILL) damaged("crashes the HDF5 library");
  return ChildReading::kDone;
}

}  // namespace lockstep
