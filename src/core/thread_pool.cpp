// Thread pool: workers spin briefly for the next loop, then sleep; tiles are handed out by one shared counter.
#include "core/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lockstep {

namespace {

// True on a thread that is inside a tile: nested loops stay on it.
thread_local bool inside_tile = false;

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// About 20-50 microseconds: longer than the gap between two kernels of a step, far shorter than anyone would notice.
constexpr int kSpins = 2000;

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex in_use;  // one loop at a time; a second thread (prefetch, checkpoint) runs its tiles itself
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};  // counts loops; a change tells sleeping workers that there is work
  std::atomic<bool> stop{false};
  std::atomic<int> busy{0};  // workers that have not finished the current loop
  std::atomic<int64_t> next{0};
  int64_t tiles = 0;
  const TileFunction* function = nullptr;
  std::mutex error_mutex;
  std::exception_ptr error;

  void work() {
    inside_tile = true;
    for (int64_t tile = next.fetch_add(1); tile < tiles; tile = next.fetch_add(1)) {
      try {
        (*function)(tile);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
    inside_tile = false;
  }

  void serve() {
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && generation.load() == seen && !stop.load(); ++spin) pause_briefly();
      if (generation.load() == seen && !stop.load()) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return generation.load() != seen || stop.load(); });
      }
      if (stop.load()) return;
      seen = generation.load();
      work();
      busy.fetch_sub(1);
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  if (threads < 1) fail(ErrorKind::kUsage, "threads: must be at least 1, got " + std::to_string(threads));
  for (int i = 1; i < threads; ++i) state_->workers.emplace_back([this] { state_->serve(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(int64_t tiles, TileFunction function) {
  if (tiles <= 0) return;
  State& state = *state_;
  std::unique_lock in_use(state.in_use, std::defer_lock);
  if (state.workers.empty() || tiles == 1 || inside_tile || !in_use.try_lock()) {
    for (int64_t tile = 0; tile < tiles; ++tile) function(tile);
    return;
  }
  state.tiles = tiles;
  state.function = &function;
  state.next.store(0);
  state.busy.store(static_cast<int>(state.workers.size()));
  {
    const std::lock_guard lock(state.mutex);
    state.generation.fetch_add(1);
  }
  state.wake.notify_all();
  state.work();
  while (state.busy.load() != 0) pause_briefly();
  if (state.error) {
    const std::exception_ptr error = state.error;
    state.error = nullptr;
    std::rethrow_exception(error);
  }
}

namespace {
std::unique_ptr<ThreadPool>& pool_slot() {
  static std::unique_ptr<ThreadPool> pool = std::make_unique<ThreadPool>(1);
  return pool;
}
}  // namespace

ThreadPool& thread_pool() {
  static std::unique_ptr<ThreadPool>& slot = pool_slot();
  return *slot;
}

void set_threads(int threads) {
  if (thread_pool().threads() != threads) pool_slot() = std::make_unique<ThreadPool>(threads);
}

}  // namespace lockstep
