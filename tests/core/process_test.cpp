// What a process prepares: standard descriptors, and writes that fail instead of killing.
#include "lockstep/core/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace lockstep {
namespace {

TEST(PrepareProcessDeathTest, StandardDescriptorsThatAreClosedBecomeTheNullDevice) {
  EXPECT_EXIT(
      {
        for (const int descriptor : {0, 2}) ::close(descriptor);
        prepare_process();
        char byte = 'x';
        const bool good =
            ::read(0, &byte, 1) == 0 && ::write(2, &byte, 1) == 1 && ::open("/dev/null", O_RDONLY) > 2;
        ::_exit(good ? 7 : 1);
      },
      ::testing::ExitedWithCode(7), "");
}

TEST(PrepareProcessDeathTest, AWriteIntoAPipeThatNobodyReadsFails) {
  EXPECT_EXIT(
      {
        prepare_process();
        int ends[2];
        if (::pipe(ends) != 0) ::_exit(1);
        ::close(ends[0]);
        ::_exit(::write(ends[1], "x", 1) == -1 && errno == EPIPE ? 7 : 1);
      },
      ::testing::ExitedWithCode(7), "");
}

TEST(PrepareProcessDeathTest, AProgramWhoseOutputIsAllThatItDoesEndsAsFiltersDo) {
  EXPECT_EXIT(
      {
        prepare_process();
        end_by_broken_pipe();
      },
      ::testing::KilledBySignal(SIGPIPE), "");
}

}  // namespace
}  // namespace lockstep
