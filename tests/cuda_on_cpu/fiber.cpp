// Switches stacks: six registers by hand on x86-64, ucontext elsewhere.
#include "fiber.h"

#include <cuda_runtime.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(CUDA_ON_CPU_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* low, size_t bytes);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** low, size_t* bytes);
}
#endif

namespace cuda_on_cpu {

namespace {

// Frames are larger in instrumented code. Not a power of two, so that the tops of the stacks, which every
// switch touches, do not compete for the same lines of the cache.
#if defined(CUDA_ON_CPU_ASAN) || defined(CUDA_ON_CPU_TSAN)
constexpr size_t kStackPages = 65;
#else
constexpr size_t kStackPages = 33;
#endif

#if defined(CUDA_ON_CPU_ASAN)
Fiber* fiber_left = nullptr;
#endif

}  // namespace

#if defined(__x86_64__)

extern "C" void cuda_on_cpu_switch(void** save, void* restore) __attribute__((visibility("hidden")));
// The callee-saved registers are pushed, the stack pointer is exchanged, and the other stack's registers are
// popped. It returns rather than jumps: threads wait at the same places as a rule, so that the processor's
// own stack of return addresses foretells this return and those behind it.
asm(R"(
  .text
  .p2align 4
  .hidden cuda_on_cpu_switch
  .globl cuda_on_cpu_switch
  .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

#else

struct FiberContext {
  ucontext_t context;
};

#endif

Fiber* make_fiber(void (*entry)()) {
  static size_t made = 0;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t bytes = kStackPages * page;
  // The lowest page stays inaccessible: an overflow faults.
  void* const memory =
      mmap(nullptr, bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) stop("no memory for the stack of a thread");
  auto* const low = static_cast<unsigned char*>(memory) + page;
  if (mprotect(low, bytes, PROT_READ | PROT_WRITE) != 0) stop("no memory for the stack of a thread");
#if defined(CUDA_ON_CPU_TSAN)
  // The threads of later blocks have the same stacks: what they write there is theirs alone.
  AnnotateBenignRaceSized(__FILE__, __LINE__, low, bytes, "stack");
#endif
  auto* const fiber = new Fiber;
  fiber->stack_low = low;
  fiber->stack_bytes = bytes;
#if defined(__x86_64__)
  // Tops are spread over a page for the cache's sake. After the entry's address is popped, the stack pointer
  // is 8 below a multiple of 16, as after a call.
  unsigned char* const top = low + bytes - made++ * 320 % (page / 2);
  auto* const words = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{63}) - 10;
  for (int i = 0; i < 10; ++i) words[i] = nullptr;
  words[6] = reinterpret_cast<void*>(entry);
  fiber->stack_pointer = words;
#else
  ++made;
  fiber->context = new FiberContext;
  getcontext(&fiber->context->context);
  fiber->context->context.uc_stack.ss_sp = low;
  fiber->context->context.uc_stack.ss_size = bytes;
  makecontext(&fiber->context->context, entry, 0);
#endif
  return fiber;
}

#if !defined(__x86_64__) || defined(CUDA_ON_CPU_ASAN) || defined(CUDA_ON_CPU_TSAN)
void switch_fiber(Fiber& from, Fiber& to) {
#if defined(CUDA_ON_CPU_ASAN)
  fiber_left = &from;
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_low, to.stack_bytes);
#endif
#if defined(CUDA_ON_CPU_TSAN)
  __tsan_switch_to_fiber(to.race_context, 1);
#endif
#if defined(__x86_64__)
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
  if (from.context == nullptr) from.context = new FiberContext;  // the thread that launches
  swapcontext(&from.context->context, &to.context->context);
#endif
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, &fiber_left->stack_low, &fiber_left->stack_bytes);
#endif
}
#endif

void fiber_began([[maybe_unused]] Fiber& self) {
#if defined(CUDA_ON_CPU_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &fiber_left->stack_low, &fiber_left->stack_bytes);
#endif
}

#if defined(CUDA_ON_CPU_TSAN)
void acquire(void* token) {
  __tsan_acquire(token);
}
void release(void* token) {
  __tsan_release(token);
}
void* make_race_context() {
  return __tsan_create_fiber(0);
}
void adopt_running_thread(Fiber& fiber) {
  fiber.race_context = __tsan_get_current_fiber();
}
void act_as(const Fiber& fiber) {
  __tsan_switch_to_fiber(fiber.race_context, 1);
}
#endif

}  // namespace cuda_on_cpu
