// Reading HDF5 files that no seal vouches for in a child process first.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/data/formats.h"

namespace lockstep {

void try_hdf5(const DatasetOptions& options, int64_t seconds) {
  seconds += checked_file_size(options.path) >> 20;
  const pid_t child = fork();
  if (child < 0)
    fail(ErrorKind::kData, fmt::format("{}: cannot start a process: {}", options.path, std::strerror(errno)));
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    rlimit time{};
    getrlimit(RLIMIT_CPU, &time);
    time.rlim_cur = std::min(time.rlim_max, static_cast<rlim_t>(seconds));
    setrlimit(RLIMIT_CPU, &time);
    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
    try {
      const Hdf5Rows rows(options);
      Dataset piece = rows.outline();
      constexpr int64_t kPieceElements = 1 << 22;
      const int64_t count =
          std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, piece.sample_shape.elements()));
      for (int64_t first = 0; first < rows.outline().size(); first += count)
        rows.read_inputs(first, std::min(count, rows.outline().size() - first), piece);
    } catch (...) {
      // Found in order, so the parent can find it.
    }
    _exit(0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const auto damaged = [&](const std::string& what) {
    fail(ErrorKind::kData, fmt::format("{}: damaged: reading it {}", options.path, what));
  };
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (signal == SIGXCPU) damaged(fmt::format("does not end within {} s of processor time", seconds));
  // Killed from outside, for want of memory say, is no verdict on the file.
  if (status != 0 && signal != SIGKILL) damaged("crashes the HDF5 library");
}

}  // namespace lockstep
