// A thread that waits for the end of the object, or of the time.
#include "lockstep/comm/deadline.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

Deadline::Deadline(double seconds, int exit_code, std::string message, std::function<void(int)> end) {
  constexpr double kLongest = 1e9;  // the clock holds no more than some hundred years
  const auto limit =
      std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                             std::chrono::duration<double>(std::min(seconds, kLongest)));
  // Signals are for the thread that waits for MPI, which may have to be woken by them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, limit, exit_code, text = std::move(message), finish = std::move(end)] {
    std::unique_lock lock(mutex_);
    if (changed_.wait_until(lock, limit, [this] { return over_; })) return;
    if (exit_code == 0 || exit_code == kExitStopped) {
      log_warning(text);
    } else {
      log_error(text);
    }
    if (finish) finish(exit_code);
    std::_Exit(exit_code);
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Deadline::~Deadline() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::string who_waits() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name)) return fmt::format("rank {} on host {}", rank, host.data());
  }
  return fmt::format("host {}", host.data());
}

}  // namespace lockstep
