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

#include "lockstep/comm/neighbours.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

Deadline::Deadline(double seconds, int exit_code, std::string phase, Message message,
                   std::function<void(int)> end) {
  constexpr double kPatienceSeconds = 10.0;
  // Neighbours whose time is over a moment later must still find who has spoken for them.
  static constexpr std::chrono::seconds kAfterSpeaking{2};
  // Signals are for the thread that waits for MPI, which may have to be woken by them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, seconds, exit_code, phase_ = std::move(phase), message_ = std::move(message),
                         finish = std::move(end)] {
    if (!phase_.empty()) announce_phase(phase_);
    if (kept(seconds)) return;
    std::string text = message_(false);
    const bool asked_last = text.empty();
    if (asked_last) {
      if (kept(kPatienceSeconds)) return;
      text = message_(true);
    }
    if (exit_code == 0 || exit_code == kExitStopped) {
      log_warning(text);
    } else {
      log_error(text);
    }
    if (finish) {
      finish(exit_code);
    } else if (!asked_last) {
      std::this_thread::sleep_for(kAfterSpeaking);
    }
    std::_Exit(exit_code);
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool Deadline::kept(double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kSlice{100};
  // A process that was stopped does not find the others late as soon as it goes on: only slices count.
  std::unique_lock lock(mutex_);
  for (double left = seconds; left > 0.0;) {
    const std::chrono::duration<double> slice =
        std::min<std::chrono::duration<double>>(kSlice, std::chrono::duration<double>(left));
    const Clock::time_point begin = Clock::now();
    if (changed_.wait_until(lock, begin + std::chrono::duration_cast<Clock::duration>(slice),
                            [this] { return over_; }))
      return true;
    left -= std::min(std::chrono::duration<double>(Clock::now() - begin).count(), 5.0 * slice.count());
  }
  return false;
}

Deadline::~Deadline() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::string host_name() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return host.data();
}

std::string who_waits() {
  const int rank = launched_rank();
  return rank < 0 ? "host " + host_name() : fmt::format("rank {} on host {}", rank, host_name());
}

}  // namespace lockstep
