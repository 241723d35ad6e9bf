// Handlers that look who has sent the signal.
#include "lockstep/comm/end_notice.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "lockstep/comm/neighbours.h"

namespace lockstep {

namespace {

constexpr int kSignals[] = {SIGCONT, SIGUSR2};
// Handlers run on whatever thread, and another one asks.
std::atomic<bool> noticed{false};
std::atomic<pid_t> launcher{0};
struct sigaction previous[2];

// SIGCONT of a shell or a debugger that lets a process go on is none.
void on_signal(int signal, siginfo_t* from, void*) {
  if (signal == SIGUSR2 || (from->si_code == SI_USER && from->si_pid == launcher)) noticed = true;
}

}  // namespace

EndNotice::EndNotice() {
  noticed = false;
  launcher = launching_process();
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &action, &previous[i]);
}

EndNotice::~EndNotice() {
  for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &previous[i], nullptr);
}

bool EndNotice::given() const {
  return noticed;
}

}  // namespace lockstep
