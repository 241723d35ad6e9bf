// Spinning where nobody else needs the core.
#include "lockstep/comm/spin.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <limits>
#include <string>

#include "lockstep/core/control_groups.h"

namespace lockstep {

namespace {

constexpr std::chrono::microseconds kOnOwnCore{10000};
constexpr std::chrono::microseconds kOnSharedCore{20};
// Waits until a thread that has lost its core tries to keep it again.
constexpr int kPoliteWaits = 256;

// How often another thread took the core of this one.
int64_t times_displaced() {
  rusage usage{};
  return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : 0;
}

double quota_of(const std::string& directory) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  std::string quota;
  double period = 0.0;
  if (std::ifstream both(directory + "/cpu.max"); both >> quota >> period && quota != "max" && period > 0.0)
    return std::stod(quota) / period;
  double allowed = -1.0;
  std::ifstream(directory + "/cpu.cfs_quota_us") >> allowed;
  std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  return allowed > 0.0 && period > 0.0 ? allowed / period : kNone;
}

}  // namespace

CoreSet usable_core_set() {
  CoreSet set{};
  cpu_set_t cores;
  if (::sched_getaffinity(0, sizeof cores, &cores) != 0) return set;
  for (size_t core = 0; core < 64 * set.size(); ++core) {
    if (CPU_ISSET(core, &cores)) set[core / 64] |= uint64_t{1} << (core % 64);
  }
  return set;
}

double core_quota() {
  double least = std::numeric_limits<double>::infinity();
  for (const ControlGroup& group : control_groups("cpu")) least = std::min(least, quota_of(group.folder));
  return least;
}

Spin::Spin(int workers, const CoreSet& cores) {
  int count = 0;
  for (const uint64_t word : cores) count += std::popcount(word);
  shared_ = workers > count || static_cast<double>(workers) > core_quota();
}

bool Spin::until(const std::function<bool()>& test, std::chrono::steady_clock::time_point start,
                 bool lets_others) {
  using Clock = std::chrono::steady_clock;
  const bool keeps = !crowded();
  const auto limit = start + (keeps ? kOnOwnCore : kOnSharedCore);
  if (polite_waits_ > 0) --polite_waits_;
  if (!keeps && !lets_others) return false;
  const int64_t before = keeps ? times_displaced() : 0;
  bool came = false;
  while (!came && Clock::now() < limit) came = test();
  if (keeps && times_displaced() > before) polite_waits_ = kPoliteWaits;
  return came;
}

}  // namespace lockstep
