// Times two ways of doing the same work so that both see the same machine: in turns, many short slices each.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

namespace lockstep {

struct Timing {
  double fastest = 0, median = 0;  // seconds a call
};

// Both get `slices` slices of about `slice_seconds`; before each, a pause in which the other's threads stop
// spinning, and two calls that are not timed. With one thread the time is the processor's, so that neighbours
// on a shared machine count as little as possible; with several it is the wall's.
template <class A, class B>
std::pair<Timing, Timing> alternate(const A& a, const B& b, int threads, int slices, double slice_seconds) {
  const auto now = [threads] {
    timespec time{};
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const auto seconds_of = [&](const auto& call, int calls) {
    const double start = now();
    for (int i = 0; i < calls; ++i) call();
    return (now() - start) / calls;
  };
  std::vector<double> times[2];
  const auto slice = [&](const auto& call, std::vector<double>& into) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    const double once = std::min(seconds_of(call, 1), seconds_of(call, 1));
    into.push_back(seconds_of(call, std::clamp(static_cast<int>(slice_seconds / once), 1, 100000)));
  };
  for (int i = 0; i < slices; ++i) {
    slice(a, times[0]);
    slice(b, times[1]);
  }
  const auto summary = [](std::vector<double>& t) {
    std::sort(t.begin(), t.end());
    return Timing{t.front(), t[t.size() / 2]};
  };
  return {summary(times[0]), summary(times[1])};
}

}  // namespace lockstep
