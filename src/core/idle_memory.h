// What happens before a backend gives up for want of memory: whoever keeps memory without using it gives it
// back.
#pragma once

#include <atomic>

namespace lockstep {

// Hands idle memory of every backend back to it. May be called from any thread, in the middle of a kernel's
// preparation.
using GiveBack = void (*)();

inline std::atomic<GiveBack>& idle_memory_owner() {
  static std::atomic<GiveBack> owner{nullptr};
  return owner;
}

inline void give_back_idle_memory() {
  if (const GiveBack give_back = idle_memory_owner().load()) give_back();
}

}  // namespace lockstep
