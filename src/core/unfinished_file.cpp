// A table of names that a signal handler may read at any time.
#include "lockstep/core/unfinished_file.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <utility>

namespace lockstep {

namespace {

// Names stand in static memory, so that the handler never reads what has been freed.
struct Slot {
  enum State : int { kFree, kTaken, kNamed };
  std::atomic<int> state{kFree};
  std::array<char, 4096> path{};
};
std::array<Slot, 16> slots;
static_assert(std::atomic<int>::is_always_lock_free, "signal handlers may not wait");

int take_slot(const std::string& path) {
  if (path.size() >= slots[0].path.size()) return -1;
  for (size_t i = 0; i < slots.size(); ++i) {
    int free = Slot::kFree;
    if (!slots[i].state.compare_exchange_strong(free, Slot::kTaken)) continue;
    std::memcpy(slots[i].path.data(), path.c_str(), path.size() + 1);
    slots[i].state = Slot::kNamed;
    return static_cast<int>(i);
  }
  return -1;
}

void on_signal(int signal) {
  for (const Slot& slot : slots)
    if (slot.state == Slot::kNamed) ::unlink(slot.path.data());
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

UnfinishedFile::UnfinishedFile(std::string path) : path_(std::move(path)), slot_(take_slot(path_)) {}

UnfinishedFile::~UnfinishedFile() {
  ::unlink(path_.c_str());
  if (slot_ >= 0) slots[static_cast<size_t>(slot_)].state = Slot::kFree;
}

void remove_unfinished_on_signals() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before = {};
    if (sigaction(number, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) continue;
    struct sigaction action = {};
    action.sa_handler = on_signal;
    sigaction(number, &action, nullptr);
  }
}

}  // namespace lockstep
