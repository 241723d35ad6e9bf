// Signal handlers that only set a flag.
#include "train/stop_signal.h"

#include <csignal>

namespace lockstep {

namespace {

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};
volatile std::sig_atomic_t raised_signal = 0;
struct sigaction previous[3];

void on_signal(int signal) {
  if (signal == SIGINT && raised_signal == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
  raised_signal = signal;
}

}  // namespace

StopSignal::StopSignal() {
  raised_signal = 0;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // file and socket calls in progress are not cut short
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &action, &previous[i]);
}

StopSignal::~StopSignal() {
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &previous[i], nullptr);
}

bool StopSignal::raised() const {
  return raised_signal != 0;
}

const char* StopSignal::name() const {
  return raised_signal == SIGTERM   ? "SIGTERM"
         : raised_signal == SIGINT  ? "SIGINT"
         : raised_signal == SIGUSR1 ? "SIGUSR1"
                                    : "";
}

}  // namespace lockstep
