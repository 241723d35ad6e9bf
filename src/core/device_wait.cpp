// Polling, with a look around now and then.
#include "lockstep/core/device_wait.h"

#include <chrono>
#include <thread>
#include <utility>

namespace lockstep {

namespace {

thread_local Meanwhile device_wait;

// Seldom enough not to be felt.
constexpr std::chrono::milliseconds kLookAroundEvery{20};

}  // namespace

void set_device_wait(Meanwhile meanwhile) {
  device_wait = std::move(meanwhile);
}

void wait_for_device(const std::function<bool()>& passed, const std::function<void()>& block) {
  using Clock = std::chrono::steady_clock;
  if (!device_wait) return block();
  bool looked = false;
  for (Clock::time_point last = Clock::now(); !passed(); std::this_thread::yield()) {
    const Clock::time_point now = Clock::now();
    if (now - last < kLookAroundEvery) continue;
    last = now;
    looked = true;
    device_wait(false);
  }
  if (looked) device_wait(true);
}

}  // namespace lockstep
