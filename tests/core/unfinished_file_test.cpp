// Nothing is left of files that were not finished.
#include "lockstep/core/unfinished_file.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <vector>

#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

TEST(UnfinishedFile, GoesWithItsObjectUnlessItHasGotAnotherName) {
  const testing::ScratchDirectory scratch;
  {
    const UnfinishedFile left(scratch.file("left")), finished(scratch.file("partial"));
    std::ofstream(left.path()) << "half";
    std::ofstream(finished.path()) << "whole";
    std::filesystem::rename(finished.path(), scratch.file("finished"));
  }
  EXPECT_FALSE(std::filesystem::exists(scratch.file("left")));
  EXPECT_TRUE(std::filesystem::exists(scratch.file("finished")));
}

TEST(UnfinishedFile, GoesWhenASignalEndsTheProcess) {
  const testing::ScratchDirectory scratch;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_EXIT(
        {
          std::signal(number, SIG_DFL);
          remove_unfinished_on_signals();
          for (int i = 0; i < 40; ++i)
            const UnfinishedFile earlier(scratch.file("earlier"));  // slots come back
          const UnfinishedFile one(scratch.file("one"));
          const UnfinishedFile other(scratch.file("other"));
          std::ofstream(one.path()) << "half";
          std::ofstream(other.path()) << "half";
          std::raise(number);
        },
        ::testing::KilledBySignal(number), "");
    EXPECT_FALSE(std::filesystem::exists(scratch.file("one"))) << number;
    EXPECT_FALSE(std::filesystem::exists(scratch.file("other"))) << number;
  }
}

TEST(UnfinishedFile, WhatIsIgnoredStaysIgnored) {
  const testing::ScratchDirectory scratch;
  EXPECT_EXIT(
      {
        std::signal(SIGINT, SIG_IGN);
        remove_unfinished_on_signals();
        const UnfinishedFile file(scratch.file("file"));
        std::ofstream(file.path()) << "half";
        std::raise(SIGINT);
        std::_Exit(std::filesystem::exists(file.path()) ? 17 : 18);
      },
      ::testing::ExitedWithCode(17), "");
}

}  // namespace
}  // namespace lockstep
