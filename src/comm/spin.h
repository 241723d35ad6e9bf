// How long a wait keeps its processor before it yields between tests.
//
// A worker with a core of its own gains nothing from yielding and may lose milliseconds to other processes.
// Where more threads want cores than there are, every further test delays the worker that is waited for: with
// more workers than cores that they may use, be it by affinity or by the quota of a cgroup, and beside
// processes of whatever kind, which show in that the waiting thread loses its core.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>

namespace lockstep {

// Bit i of word i / 64: core i.
using CoreSet = std::array<uint64_t, 16>;
// Of this process, by affinity.
CoreSet usable_core_set();
// What the quota of the process's cgroup, and of those above it, comes to in cores; infinity: there is none.
double core_quota();

class Spin {
 public:
  Spin() = default;
  // For the workers of a host that may use `cores` together.
  Spin(int workers, const CoreSet& cores);

  // Calls `test` until it says true, or for as long as is of use: where others want the core not at all,
  // unless the test lets them have it now and then. Returns what it said last.
  bool until(const std::function<bool()>& test, std::chrono::steady_clock::time_point start,
             bool lets_others = true);

  bool crowded() const { return shared_ || polite_waits_ > 0; }

 private:
  bool shared_ = true;
  int polite_waits_ = 0;  // that do not spin, since another thread wanted the core
};

}  // namespace lockstep
