// The thread pool: every tile once, failures as a single thread would meet them, no deadlock, no work when
// idle.
#include "lockstep/core/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/core/error.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCKSTEP_ADDRESSES_ARE_TAKEN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LOCKSTEP_ADDRESSES_ARE_TAKEN
#endif
#endif

namespace lockstep {
namespace {

class ThreadPools : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ThreadPools, ::testing::Values(1, 2, 3, 8));

TEST_P(ThreadPools, RunEveryTileExactlyOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (const int64_t tiles : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<int> visits(static_cast<size_t>(tiles),
                            0);  // plain ints: a tile visited twice is also a race
    pool.run(tiles, [&](int64_t tile) { ++visits.at(static_cast<size_t>(tile)); });
    EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(tiles), 1));
  }
  pool.run(-3, [](int64_t) { FAIL(); });
}

TEST_P(ThreadPools, MakeWritesOfTilesVisibleToTheCaller) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(64);
  for (int64_t round = 0; round < 2000; ++round) {
    pool.run(64, [&](int64_t tile) { values[static_cast<size_t>(tile)] = round * tile; });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), round * 64 * 63 / 2);
  }
}

TEST_P(ThreadPools, Run100000TinyLoops) {
  ThreadPool pool(GetParam());
  const int loops =
      GetParam() <= 2 ? 100000 : 2000;  // more threads than cores make each loop a context switch
  int64_t sum = 0;
  for (int i = 0; i < loops; ++i) {
    int64_t parts[2] = {0, 0};
    pool.run(2, [&](int64_t tile) { parts[tile] = tile + i; });
    sum += parts[0] + parts[1];
  }
  EXPECT_EQ(sum, static_cast<int64_t>(loops) * loops);
}

TEST_P(ThreadPools, RethrowTheFailureOfTheLowestTileAndGoOnWorking) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 200; ++round) {
    try {
      pool.run(16, [&](int64_t tile) {
        if (tile == 5 || tile == 6 || tile == 15) throw std::runtime_error(std::to_string(tile));
      });
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      ASSERT_STREQ(error.what(), "5");
    }
    std::atomic<int> visited{0};
    pool.run(16, [&](int64_t) { visited.fetch_add(1); });
    ASSERT_EQ(visited.load(), 16);
  }
}

TEST_P(ThreadPools, NestedLoopsStayOnTheirThread) {
  ThreadPool pool(GetParam());
  std::atomic<int> strays{0}, visited{0};
  pool.run(8, [&](int64_t) {
    const std::thread::id outer = std::this_thread::get_id();
    pool.run(8, [&](int64_t) {
      if (std::this_thread::get_id() != outer) strays.fetch_add(1);
      visited.fetch_add(1);
    });
  });
  EXPECT_EQ(strays.load(), 0);
  EXPECT_EQ(visited.load(), 64);
}

TEST_P(ThreadPools, ServeSeveralCallersAtOnce) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> sums(3, 0);
  std::vector<std::thread> callers;
  for (size_t c = 0; c < sums.size(); ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 300; ++round) {
        int64_t values[10] = {};
        pool.run(10, [&](int64_t tile) { values[tile] = tile; });
        sums[c] += std::accumulate(values, values + 10, int64_t{0});
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sums, std::vector<int64_t>(3, 300 * 45));
}

TEST(ThreadPool, WakesSleepingThreads) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    // Two tiles that wait for each other finish only if a second thread comes.
    std::atomic<int> arrived{0};
    pool.run(2, [&](int64_t) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
  }
}

TEST(ThreadPool, LeavesTheProcessorAloneWhenIdle) {
  ThreadPool pool(4);
  pool.run(100, [](int64_t) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::clock_t begin = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 0.02);
}

TEST(ThreadPool, RefusesLessThanOneThread) {
  EXPECT_THROW(ThreadPool(0), Error);
}

// Their stacks have no room: every thread that started must have ended when the error arrives. In a process
// of its own, and not under sanitizers, which need all the addresses there are.
#if !defined(LOCKSTEP_ADDRESSES_ARE_TAKEN)
TEST(ThreadPool, SaysHowManyThreadsCouldBeStartedAndEndsThem) {
  const auto start_too_many = [] {
    rlimit limit{};
    getrlimit(RLIMIT_AS, &limit);
    std::ifstream statm("/proc/self/statm");
    uint64_t pages = 0;
    statm >> pages;
    limit.rlim_cur = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) + (uint64_t{512} << 20);
    setrlimit(RLIMIT_AS, &limit);
    try {
      ThreadPool pool(10'000);
    } catch (const Error& error) {
      const std::string text = error.what();
      const bool counted =
          text.starts_with("threads: only ") && text.find(" of 10000 can be started") != std::string::npos;
      std::ifstream status("/proc/self/status");
      for (std::string line; std::getline(status, line);) {
        if (line == "Threads:\t1") std::exit(counted && error.kind() == ErrorKind::kUsage ? 0 : 3);
      }
      std::exit(4);
    }
    std::exit(5);
  };
  EXPECT_EXIT(start_too_many(), ::testing::ExitedWithCode(0), "");
}
#endif

TEST(ThreadPool, SetThreadsReplacesTheProcessPool) {
  EXPECT_EQ(thread_pool().threads(), 1);
  set_threads(3);
  EXPECT_EQ(thread_pool().threads(), 3);
  set_threads(1);
  EXPECT_EQ(thread_pool().threads(), 1);
}

TEST(ParallelRanges, CutAtMultiplesOfTheGrainWhateverTheThreads) {
  for (const int threads : {1, 2, 5}) {
    set_threads(threads);
    for (const int64_t n : {0, 1, 7, 8, 9, 16, 1001}) {
      std::vector<int> visits(static_cast<size_t>(n), 0);
      parallel_ranges(n, 8, [&](int64_t begin, int64_t end) {
        EXPECT_EQ(begin % 8, 0);
        EXPECT_EQ(end, std::min<int64_t>(begin + 8, n));
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(n), 1));
    }
  }
  set_threads(1);
}

}  // namespace
}  // namespace lockstep
