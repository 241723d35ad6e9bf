// Reading HDF5 files that no seal vouches for in a child process first.
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
#include <cstring>
#include <functional>
#include <optional>
#include <string>

#include "lockstep/core/error.h"
#include "lockstep/core/input_file.h"
#include "lockstep/data/formats.h"

namespace lockstep {

namespace {

// whole: what memory has no room for is not unpacked, which may take long; why goes to `refusal`.
void read_all(const DatasetOptions& options, bool whole, int refusal) {
  DatasetOptions narrow = options;
  narrow.narrow = true;
  const Hdf5Rows rows(narrow);
  Dataset piece = rows.outline();
  const int64_t each = std::max<int64_t>(1, piece.sample_shape.elements()), all = rows.outline().size();
  if (whole && !rows.inputs_offset()) {
    try {
      require_memory(options.path, all * each * static_cast<int64_t>(size_of(piece.input_dtype)));
    } catch (const Error& error) {
      const std::string said = error.what();
      if (write(refusal, said.data(), said.size()) != std::ssize(said)) _exit(1);
      return;
    }
  }
  constexpr int64_t kPieceElements = 1 << 22;
  const int64_t count = std::max<int64_t>(1, kPieceElements / each);
  for (int64_t first = 0; first < all; first += count)
    rows.read_inputs(first, std::min(count, all - first), piece);
}

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

}  // namespace

bool try_hdf5(const DatasetOptions& options, const DatasetTrial& trial) {
  const int64_t seconds = trial.seconds + (checked_file_size(options.path) >> 20);
  const auto refuse = [&](const std::string& what) {
    fail(ErrorKind::kData, fmt::format("{}: cannot start a process: {}", options.path, what));
  };
  int ends[2];  // the child's refusal
  if (::pipe2(ends, O_CLOEXEC) != 0) refuse(std::strerror(errno));
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    close(ends[0]);
    // Whoever ends the parent does not leave it to itself.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    rlimit time{};
    getrlimit(RLIMIT_CPU, &time);
    time.rlim_cur = std::min(time.rlim_max, static_cast<rlim_t>(seconds));
    setrlimit(RLIMIT_CPU, &time);
    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
    try {
      read_all(options, trial.whole, ends[1]);
    } catch (...) {
      // Found in order, so the parent can find it.
    }
    _exit(0);
  }
  const int error = errno;
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    refuse(std::strerror(error));
  }
  const std::optional<std::string> refusal = said_by(ends[0], trial.gives_up);
  close(ends[0]);
  if (!refusal) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!refusal) return false;
  if (!refusal->empty()) fail(ErrorKind::kData, *refusal);
  const auto damaged = [&](const std::string& what) {
    fail(ErrorKind::kData, fmt::format("{}: damaged: reading it {}", options.path, what));
  };
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (signal == SIGXCPU) damaged(fmt::format("does not end within {} s of processor time", seconds));
  // Killed from outside, for want of memory say, is no verdict on the file.
  if (status != 0 && signal != SIGKILL) damaged("crashes the HDF5 library");
  return true;
}

}  // namespace lockstep
