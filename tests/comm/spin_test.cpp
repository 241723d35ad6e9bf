// A wait keeps its core only where nobody else needs it.
#include "lockstep/comm/spin.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <bit>
#include <thread>

namespace lockstep {
namespace {

bool never() {
  return false;
}

// On one core of those that this thread may use.
class OneCore {
 public:
  OneCore() {
    ::sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int core = 0; CPU_COUNT(&one) == 0; ++core) {
      if (CPU_ISSET(core, &before_)) CPU_SET(core, &one);
    }
    ::sched_setaffinity(0, sizeof one, &one);
  }
  ~OneCore() { ::sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

TEST(Spin, TheCoresAreThoseThatTheProcessMayUse) {
  const OneCore bound;
  const CoreSet cores = usable_core_set();
  int count = 0;
  for (const uint64_t word : cores) count += std::popcount(word);
  EXPECT_EQ(count, 1);
  EXPECT_TRUE(Spin(2, cores).crowded());
  EXPECT_EQ(Spin(1, cores).crowded(), core_quota() < 1.0);
  EXPECT_GT(core_quota(), 0.0);
}

TEST(Spin, EndsWithTheTestOrTheTime) {
  int calls = 0;
  Spin spin(1, usable_core_set());
  EXPECT_TRUE(spin.until([&] { return ++calls == 3; }, std::chrono::steady_clock::now()));
  EXPECT_EQ(calls, 3);
  EXPECT_FALSE(spin.until(never, std::chrono::steady_clock::now()));
}

TEST(Spin, AThreadThatLosesItsCoreKeepsItNoLonger) {
  const OneCore bound;
  Spin spin(1, usable_core_set());
  if (spin.crowded()) GTEST_SKIP() << "less than a core";
  std::atomic<bool> done = false;
  std::thread other([&] {  // on the same core
    while (!done) {
    }
  });
  for (int i = 0; i < 100 && !spin.crowded(); ++i) spin.until(never, std::chrono::steady_clock::now());
  done = true;
  other.join();
  EXPECT_TRUE(spin.crowded());
  EXPECT_FALSE(spin.until([] { return true; }, std::chrono::steady_clock::now(), false))
      << "not asked at all";
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000 && spin.crowded(); ++i) spin.until(never, std::chrono::steady_clock::now());
  EXPECT_FALSE(spin.crowded()) << "it tries again";
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

}  // namespace
}  // namespace lockstep
