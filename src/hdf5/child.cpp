// Forking under the library's lock, which the only thread of the child then holds, and gives back.
#include "lockstep/hdf5/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "lockstep/hdf5/library.h"

namespace lockstep {

pid_t fork_between_calls() {
  const LibraryLock lock;
  return ::fork();
}

void read_in_child(const std::string& path, ErrorKind kind, int64_t seconds,
                   const std::function<void()>& reading) {
  std::error_code unknown;
  if (const uintmax_t bytes = std::filesystem::file_size(path, unknown); !unknown)
    seconds += static_cast<int64_t>(bytes >> 20);
  const pid_t child = fork_between_calls();
  if (child < 0) fail(kind, fmt::format("{}: cannot start a process: {}", path, std::strerror(errno)));
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    rlimit time{};
    getrlimit(RLIMIT_CPU, &time);
    time.rlim_cur = std::min(time.rlim_max, static_cast<rlim_t>(seconds));
    setrlimit(RLIMIT_CPU, &time);
    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
    try {
      reading();
    } catch (...) {
      // Found in order, so the parent can find it.
    }
    _exit(0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const auto damaged = [&](const std::string& what) {
    fail(kind, fmt::format("{}: damaged: reading it {}", path, what));
  };
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (signal == SIGXCPU) damaged(fmt::format("does not end within {} s of processor time", seconds));
  // Killed from outside, for want of memory say, is no verdict on the file.
  if (status != 0 && signal != SIGKILL) damaged("crashes the HDF5 library");
}

}  // namespace lockstep
