// Signal handlers that only set a flag.
#include "lockstep/train/stop_signal.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>

namespace lockstep {

namespace {

constexpr struct {
  int number;
  const char* name;
} kSignals[] = {{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGUSR1, "SIGUSR1"}, {SIGHUP, "SIGHUP"}};
constexpr int kCount = 4;

volatile std::sig_atomic_t raised_signal = 0;  // the first one
volatile std::sig_atomic_t interrupts = 0;
volatile std::sig_atomic_t second_interrupt_ends = 0;
struct sigaction previous[kCount];

void on_signal(int signal) {
  if (signal == SIGINT) {
    interrupts = interrupts + 1;
    if (interrupts > 1 && second_interrupt_ends != 0) {
      std::signal(SIGINT, SIG_DFL);
      std::raise(SIGINT);
    }
  }
  if (raised_signal == 0) raised_signal = signal;
}

}  // namespace

bool at_terminal() {
  const int terminal = ::open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0) return false;
  ::close(terminal);
  return true;
}

StopSignal::StopSignal(bool ends) {
  raised_signal = 0;
  interrupts = 0;
  second_interrupt_ends = ends ? 1 : 0;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // file and socket calls in progress are not cut short
  for (int i = 0; i < kCount; ++i) {
    sigaction(kSignals[i].number, nullptr, &previous[i]);
    const bool ignored = kSignals[i].number == SIGHUP && previous[i].sa_handler == SIG_IGN;
    if (!ignored) sigaction(kSignals[i].number, &action, nullptr);
  }
}

StopSignal::~StopSignal() {
  for (int i = 0; i < kCount; ++i) sigaction(kSignals[i].number, &previous[i], nullptr);
}

bool StopSignal::raised() const {
  return raised_signal != 0;
}

const char* StopSignal::name() const {
  for (const auto& signal : kSignals) {
    if (raised_signal == signal.number) return signal.name;
  }
  return "";
}

}  // namespace lockstep
