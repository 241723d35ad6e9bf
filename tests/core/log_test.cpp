// The log: nothing unless somebody asks for it; on stderr rank 0 informs, the others only warn and say who
// they are, one line a message.
#include "lockstep/core/log.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace lockstep {
namespace {

std::string logged(int rank, int world_size, const std::string& message) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  log_to_stderr(rank, world_size, false);
  log_info(message);
  log_warning(message);
  log_error(message);
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  set_log(nullptr);
  return text;
}

TEST(Log, RankZeroSaysEverything) {
  EXPECT_EQ(logged(0, 1, "hello"), "hello\nwarning: hello\nerror: hello\n");
  EXPECT_EQ(logged(0, 4, "hello"), "hello\nwarning: hello\nerror: hello\n");
}

TEST(Log, OtherRanksOnlyWarnAndNameThemselves) {
  EXPECT_EQ(logged(3, 4, "hello"), "[rank 3] warning: hello\n[rank 3] error: hello\n");
}

TEST(Log, BracesAndPercentSignsAreOrdinaryText) {
  EXPECT_EQ(logged(0, 1, "100% {} {0} %v"),
            "100% {} {0} %v\nwarning: 100% {} {0} %v\nerror: 100% {} {0} %v\n");
}

TEST(Log, ControlBytesAreShownNotSent) {
  EXPECT_EQ(logged(1, 2, "a\x1b[31mb\r\x7f\tc"),
            "[rank 1] warning: a\\x1b[31mb\\x0d\\x7f\tc\n[rank 1] error: a\\x1b[31mb\\x0d\\x7f\tc\n");
  EXPECT_EQ(logged(1, 2, "Käse"), "[rank 1] warning: Käse\n[rank 1] error: Käse\n");
}

TEST(Log, EachMessageIsOneLineWhateverCameWithAPath) {
  EXPECT_EQ(logged(0, 1, "a\nerror: b\n"),
            "a\\x0aerror: b\\x0a\nwarning: a\\x0aerror: b\\x0a\nerror: a\\x0aerror: b\\x0a\n");
}

TEST(Log, SaysNothingUnlessTheProgramAsks) {
  set_log(nullptr);
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  log_error("nobody listens");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");

  std::vector<std::pair<LogLevel, std::string>> heard;
  set_log([&](LogLevel level, const std::string& message) { heard.emplace_back(level, message); });
  log_info("a");
  log_warning("b");
  log_error("c");
  set_log(nullptr);
  log_info("d");
  EXPECT_EQ(heard, (std::vector<std::pair<LogLevel, std::string>>{
                       {LogLevel::kInfo, "a"}, {LogLevel::kWarning, "b"}, {LogLevel::kError, "c"}}));
}

}  // namespace
}  // namespace lockstep
