// A checkpoint without the help of others, by a process that does not end with this one.
#include "lockstep/train/recovery_point.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "lockstep/checkpoint/checkpoint.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/hdf5/child.h"

namespace lockstep {

namespace {

constexpr unsigned kMostSeconds = 600;

double mebibytes(const State& state) {
  size_t bytes = 0;
  for (const StateArray& array : state.arrays) bytes += array.bytes.size();
  return static_cast<double>(bytes) / (1 << 20);
}

bool finite(const State& state) {
  const auto all_finite = [](const StateArray& array) {
    return cpu_backend().all_finite(array.dtype, array.shape.elements(), array.bytes.data());
  };
  return std::ranges::all_of(state.arrays, all_finite);
}

void say(const std::string& text) {
  // Not through the log: a thread that the child has not may have held its lock.
  const std::string line = "warning: " + text + "\n";
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

// Runs `part`, which gives what to say, in a process that whoever ends this one by its number, group or
// session does not reach; the directory's lock is not the other's. Returns at once. launch/run_to_end.sh
// knows it by its name.
void run_apart(const std::function<std::string()>& part) {
  const pid_t child = fork_between_calls();
  if (child < 0) return say(part());
  if (child > 0) {
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return;
  }
  ::setsid();
  if (::fork() != 0) ::_exit(0);  // nobody has to wait for the grandchild
  ::close_range(3, ~0U, 0);
  ::prctl(PR_SET_NAME, "lockstep-saves");
  ::alarm(kMostSeconds);
  say(part());
  ::_exit(0);
}

}  // namespace

bool keeps_copies(const PreparedRun& run) {
  Optimizer& optimizer = *run.replica->optimizer;
  return run.settings.recovery_point && run.communicator.world_size() > 1 &&
         (&run.backend() != &cpu_backend() || run.settings.shard_optimizer ||
          optimizer.minimization() != nullptr || optimizer.layer_curvature() != nullptr ||
          optimizer.diagonal_curvature() != nullptr);
}

RecoveryPoint::RecoveryPoint(PreparedRun& run, std::function<void(size_t)> read_reports)
    : run_(run), read_reports_(std::move(read_reports)), copies_(keeps_copies(run)) {
  run_.communicator.at_end([this] { write(); });
}

RecoveryPoint::~RecoveryPoint() {
  run_.communicator.at_end({});
}

void RecoveryPoint::whole(int64_t step, size_t left) {
  if (copies_ && step != step_) {
    // The copy before stays until this one is whole, and so does what is logged: others may be lost while it
    // is made. Counters are right once the reports are read.
    State next = run_.state->capture(step, Snapshot::kOnEveryWorker, room_ ? std::move(*room_) : State());
    if (!copy_ && run_.leader()) {
      log_info(
          fmt::format("checkpoint.recovery_point: each worker keeps the state of two steps, {:.1f} MiB each",
                      mebibytes(next)));
    }
    read_reports_(left);
    describe(next, step);
    const std::lock_guard lock(mutex_);
    room_ = std::exchange(copy_, std::move(next));
    step_ = step;
    left_ = left;
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    step_ = step;
    left_ = left;
  }
  renew();
}

void RecoveryPoint::renew() {
  const std::lock_guard lock(mutex_);
  if (copy_ && left_ == 0) describe(*copy_, step_);
}

void RecoveryPoint::describe(State& state, int64_t step) const {
  State now = run_.state->describe(step);
  state.scalars = std::move(now.scalars);
  state.pending = std::move(now.pending);
  state.metrics_file = "unknown";  // to any but rank 0: lines up to this step stay
  state.best = run_.best.text();
  state.begun = run_.begun;
  if (run_.keeper) run_.keeper->complete(state, run_.best);
}

void RecoveryPoint::write() {
  const std::lock_guard lock(mutex_);
  const std::string& directory = run_.settings.output;
  std::error_code none;  // one that cannot be looked at counts as not there
  if (step_ < 0 || !run_.communicator.first_alive_of_host() ||
      !std::filesystem::is_directory(directory, none))
    return;
  const std::string path = checkpoint_path(directory, step_);
  // Of others, who may be a step ahead of one that was stopped until now.
  if (std::filesystem::exists(path, none) ||
      std::filesystem::exists(checkpoint_path(directory, step_ + 1), none))
    return;
  const int rank = run_.communicator.rank();
  const auto failed = [step = step_](const std::exception& error) {
    return fmt::format("checkpoint.recovery_point: step {} could not be written: {}", step, error.what());
  };
  try {
    if (!copy_) read_reports_(left_);
    if (!(copy_ ? finite(*copy_) : run_.agreement->finite()))
      fail(ErrorKind::kNumeric, "the state is not finite");
    State state = copy_ ? std::move(*copy_) : run_.state->capture(step_);
    if (!copy_) describe(state, step_);
    run_apart([&]() -> std::string {
      try {
        write_checkpoint(state, path, rank + 1);
        return fmt::format("others are lost: the state of step {} is in {} on host {}", step_, path,
                           run_.communicator.host_of(rank));
      } catch (const std::exception& error) {
        return failed(error);
      }
    });
  } catch (const std::exception& error) {
    log_warning(failed(error));
  }
}

}  // namespace lockstep
