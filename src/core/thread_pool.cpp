// Thread pool: workers spin briefly for the next loop, then sleep; a loop is over when its tiles are, whoever
// ran them.
#include "core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
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

// About 20-90 microseconds (a pause takes 10-45 ns): longer than the gap between two kernels of a step, far
// shorter than anyone would notice. A caller that waits longer for a tile gives its processor away: there may
// be more workers than cores.
constexpr int kSpins = 2000;

constexpr size_t kCacheLine = 64;

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex in_use;  // one loop at a time; a second thread (prefetch, checkpoint) runs its tiles itself

  // A tile is claimed by taking a positive ticket. `tiles` and `function` are written before the tickets are
  // issued and read only by holders of a ticket, and the loop lasts until every ticket is used up: a worker
  // that comes late finds none, or takes part in the next loop, but never sees the two mixed.
  alignas(kCacheLine) std::atomic<int64_t> tickets{0};
  alignas(kCacheLine) std::atomic<int64_t> unfinished{0};
  alignas(kCacheLine) std::atomic<uint64_t> generation{0};  // counts loops; a change is a reason to wake up
  std::atomic<int> sleepers{0};
  int64_t tiles = 0;
  const TileFunction* function = nullptr;

  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;  // guarded by mutex

  std::mutex error_mutex;
  std::exception_ptr error;
  int64_t error_tile = 0;

  void work() {
    inside_tile = true;
    for (int64_t ticket = tickets.fetch_sub(1); ticket > 0; ticket = tickets.fetch_sub(1)) {
      const int64_t tile = tiles - ticket;
      try {
        (*function)(tile);
      } catch (...) {
        // Of several failures the one that a single thread would have met is reported.
        const std::lock_guard lock(error_mutex);
        if (!error || tile < error_tile) {
          error = std::current_exception();
          error_tile = tile;
        }
      }
      unfinished.fetch_sub(1);
    }
    inside_tile = false;
  }

  void serve() {
    for (uint64_t seen = 0;;) {
      for (int spin = 0; spin < kSpins && generation.load(std::memory_order_relaxed) == seen; ++spin)
        pause_briefly();
      if (generation.load() == seen) {
        // Announced before looking again: either this thread sees the new generation or run() sees a sleeper.
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, [&] { return generation.load() != seen || stop; });
        sleepers.fetch_sub(1);
        if (stop) return;
      }
      seen = generation.load();
      work();
    }
  }

  // Also of a pool that could not start all of its threads.
  ~State() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  if (threads < 1) fail(ErrorKind::kUsage, "threads: must be at least 1, got " + std::to_string(threads));
  try {
    for (int i = 1; i < threads; ++i)
      state_->workers.emplace_back([state = state_.get()] { state->serve(); });
  } catch (const std::system_error& error) {
    fail(ErrorKind::kUsage, "threads: only " + std::to_string(this->threads()) + " of " +
                                std::to_string(threads) + " can be started: " + error.code().message() +
                                "; a smaller device.threads needs fewer");
  }
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::threads() const {
  return static_cast<int>(state_->workers.size()) + 1;
}

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
  state.unfinished.store(tiles, std::memory_order_relaxed);
  state.tickets.store(tiles);
  state.generation.fetch_add(1);
  if (state.sleepers.load() > 0) {
    {
      const std::lock_guard lock(state.mutex);
    }  // whoever announced sleep is waiting by now, or will see the generation
    state.wake.notify_all();
  }
  state.work();
  for (int spin = 0; state.unfinished.load() != 0; ++spin) {
    if (spin < kSpins) {
      pause_briefly();
    } else {
      std::this_thread::yield();
    }
  }
  if (state.error) {
    const std::exception_ptr error = std::exchange(state.error, nullptr);
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

int usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return ::sched_getaffinity(0, sizeof cores, &cores) == 0 ? std::max(CPU_COUNT(&cores), 1) : 1;
}

}  // namespace lockstep
