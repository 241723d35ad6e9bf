// What a thread does while it waits for a device, which may itself wait for other workers: without end, where
// they do not come.
#pragma once

#include <functional>

namespace lockstep {

// over: the wait is, of one in which it has been called before. It may throw, which ends the wait.
using Meanwhile = std::function<void(bool over)>;

// To be called now and then in all waits of this thread for a device from now on; empty: in none.
void set_device_wait(Meanwhile meanwhile);

// Waits until `passed`, or by `block` where nothing is to be done meanwhile.
void wait_for_device(const std::function<bool()>& passed, const std::function<void()>& block);

}  // namespace lockstep
