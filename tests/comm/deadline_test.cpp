// Nobody waits for ever inside a library.
#include "lockstep/comm/deadline.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "lockstep/core/log.h"

namespace lockstep {
namespace {

void wait_in_a_library() {
  std::this_thread::sleep_for(std::chrono::hours(1));
}

TEST(Deadline, OneThatIsKeptDoesNothing) {
  const auto start = std::chrono::steady_clock::now();
  for (const double seconds : {60.0, 1e300}) {
    const Deadline deadline(seconds, 6, "", Deadline::saying("never said"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30)) << "its end does not wait";
}

TEST(DeadlineDeathTest, OneThatIsMissedSaysWhyAndEndsTheProcess) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto miss = [](int code) {
    log_to_stderr(0, 1, false);
    const Deadline deadline(0.05, code, "", Deadline::saying("a phase: not finished"));
    wait_in_a_library();
  };
  EXPECT_EXIT(miss(6), ::testing::ExitedWithCode(6), "error: a phase: not finished");
  EXPECT_EXIT(miss(75), ::testing::ExitedWithCode(75), "warning: a phase: not finished");
  EXPECT_EXIT(miss(0), ::testing::ExitedWithCode(0), "warning: a phase: not finished");
}

TEST(DeadlineDeathTest, EndsByTheWayItIsGivenAndAnywayWhenThatReturns) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto miss = [](int other) {
    log_to_stderr(0, 1, false);
    const Deadline deadline(0.05, 6, "", Deadline::saying("said"), [other](int code) {
      if (other != 0) ::_exit(other + code);
    });
    wait_in_a_library();
  };
  EXPECT_EXIT(miss(10), ::testing::ExitedWithCode(16), "said");
  EXPECT_EXIT(miss(0), ::testing::ExitedWithCode(6), "said");
}

TEST(Deadline, TheOneWhoWaitsIsNamedByHost) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  EXPECT_NE(who_waits().find(std::string("host ") + host), std::string::npos) << who_waits();
}

}  // namespace
}  // namespace lockstep
