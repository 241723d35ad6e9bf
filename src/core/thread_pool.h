// The worker's threads: fixed tiles of work, so that results never depend on how many threads there are.
#pragma once

#include <cstdint>
#include <memory>

namespace lockstep {

// A non-owning reference to a callable void(int64_t tile): no allocation for a parallel loop.
class TileFunction {
 public:
  template <class F>
  TileFunction(const F& function)  // NOLINT: implicit on purpose, call sites pass lambdas
      : object_(&function),
        call_([](const void* object, int64_t tile) { (*static_cast<const F*>(object))(tile); }) {}
  void operator()(int64_t tile) const { call_(object_, tile); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t);
};

class ThreadPool {
 public:
  // Error (kUsage) for less than one thread, and for more than the system starts: none of them is left then.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls function(tile) once for every tile in [0, tiles), on the calling thread and the pool's; returns
  // when all are done. The first exception of a tile is rethrown. Nested calls run their tiles on the calling
  // thread.
  void run(int64_t tiles, TileFunction function);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The process's pool. One thread until set_threads is called; set_threads must not be called while tiles run.
ThreadPool& thread_pool();
void set_threads(int threads);
// Cores that this process may run on.
int usable_cores();

// Splits [0, n) into tiles of `grain` elements (the last may be shorter): function(begin, end).
template <class F>
void parallel_ranges(int64_t n, int64_t grain, const F& function) {
  if (n <= 0) return;
  const int64_t tiles = (n + grain - 1) / grain;
  if (tiles == 1) {
    function(int64_t{0}, n);
    return;
  }
  thread_pool().run(tiles, [&](int64_t tile) {
    const int64_t begin = tile * grain;
    function(begin, begin + grain < n ? begin + grain : n);
  });
}

}  // namespace lockstep
