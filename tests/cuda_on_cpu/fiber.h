// Fibers: stacks that one operating-system thread switches between, known to the sanitizers.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_CPU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_ON_CPU_ASAN 1
#endif
#endif

// The thread sanitizer must not see the runtime itself, which is therefore compiled without it and told by
// the build.
#if defined(CUDA_ON_CPU_TSAN)
inline constexpr bool kRaceCheck = true;
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateBenignRaceSized(const char* file, int line, void* memory, size_t bytes, const char* description);
}
#else
inline constexpr bool kRaceCheck = false;
#endif

namespace cuda_on_cpu {

#if !defined(__x86_64__)
struct FiberContext;
#endif

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  FiberContext* context = nullptr;
#endif
  const void* stack_low = nullptr;  // lowest address
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;    // of the address sanitizer, while suspended
  void* race_context = nullptr;  // of the thread sanitizer
};

// A fiber with a stack of its own that begins in `entry`, which never returns. Lives as long as the process.
Fiber* make_fiber(void (*entry)());

// Suspends `from`, which runs now, and resumes `to`.
#if defined(__x86_64__) && !defined(CUDA_ON_CPU_ASAN) && !defined(CUDA_ON_CPU_TSAN)
extern "C" void cuda_on_cpu_switch(void** save, void* restore) __attribute__((visibility("hidden")));
inline void switch_fiber(Fiber& from, Fiber& to) {
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
}
#else
void switch_fiber(Fiber& from, Fiber& to);
#endif

// Tells the address sanitizer that `self` begins; first thing in an entry.
void fiber_began(Fiber& self);

// For the thread sanitizer, nothing without it. Order between fibers: what precedes release(token) happens
// before what follows acquire(token).
#if defined(CUDA_ON_CPU_TSAN)
void acquire(void* token);
void release(void* token);
// A thread of the sanitizer's, ordered behind what the one that runs has done so far. Lives as long as the
// process.
void* make_race_context();
// Makes `fiber` stand for the thread that runs now.
void adopt_running_thread(Fiber& fiber);
// Continues as `fiber` for the sanitizer, on the same stack.
void act_as(const Fiber& fiber);
#else
inline void acquire(void*) {}
inline void release(void*) {}
inline void* make_race_context() {
  return nullptr;
}
inline void adopt_running_thread(Fiber&) {}
inline void act_as(const Fiber&) {}
#endif

}  // namespace cuda_on_cpu
