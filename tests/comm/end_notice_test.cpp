// Signals that say that the job is about to be ended, and the same ones of somebody else.
#include "lockstep/comm/end_notice.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lockstep/comm/neighbours.h"

namespace lockstep {
namespace {

TEST(EndNotice, IsSigusr2AndTheLaunchersSigcont) {
  {
    const EndNotice notice;
    EXPECT_FALSE(notice.given());
    ::raise(SIGCONT);
    EXPECT_FALSE(notice.given()) << "not from the process that started this one";
    ::raise(SIGUSR2);
    EXPECT_TRUE(notice.given());
  }
  EXPECT_FALSE(EndNotice().given());
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const EndNotice notice;
    if (::write(ready[1], "x", 1) != 1) ::_exit(3);
    for (int i = 0; i < 1000 && !notice.given(); ++i) ::usleep(10000);
    ::_exit(notice.given() ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ::kill(child, SIGCONT);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  for (const int end : ready) ::close(end);
}

TEST(Neighbours, KnowWhetherAProcessRuns) {
  EXPECT_TRUE(process_runs(::getpid()));
  const pid_t child = ::fork();
  if (child == 0) {
    while (true) ::pause();
  }
  ::kill(child, SIGSTOP);
  int status = 0;
  ::waitpid(child, &status, WUNTRACED);
  EXPECT_FALSE(process_runs(child)) << "stopped";
  ::kill(child, SIGKILL);
  siginfo_t dead{};
  ::waitid(P_PID, static_cast<id_t>(child), &dead, WEXITED | WNOWAIT);
  EXPECT_FALSE(process_runs(child)) << "dead, and not buried yet";
  ::waitpid(child, &status, 0);
  EXPECT_FALSE(process_runs(child)) << "gone";
}

}  // namespace
}  // namespace lockstep
