// Commands after checkpoints: what they are given, what their failure means, how long the end waits.
#include "lockstep/train/after_save.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "hdf5/scratch_directory.h"
#include "lockstep/core/log.h"
#include "lockstep/train/run_keeper.h"

namespace lockstep {
namespace {

std::string content_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class AfterSaveTest : public ::testing::Test {
 protected:
  AfterSaveTest() {
    set_log([this](LogLevel, const std::string& line) { log_ += line + "\n"; });
  }
  ~AfterSaveTest() override { set_log({}); }
  std::string log_;
  testing::ScratchDirectory scratch_;
};

TEST_F(AfterSaveTest, GetsThePathHoweverItIsSpelledAndKeepsTheOrder) {
  const std::string said = scratch_.file("said");
  AfterSave after("sleep 0.1; echo {} {} >>" + said, 10.0);
  for (const std::string path : {"a b/step-1.h5", "it's $HOME `x` \"q\".h5", "{}"}) after.saved(path);
  after.finish();
  EXPECT_EQ(content_of(said),
            "a b/step-1.h5 a b/step-1.h5\nit's $HOME `x` \"q\".h5 it's $HOME `x` \"q\".h5\n{} {}\n");
  EXPECT_EQ(log_, "");
}

TEST_F(AfterSaveTest, WarnsOfWhatFailsAndGoesOn) {
  AfterSave after("test {} = good || exit 7", 10.0);
  after.saved("bad");
  after.saved("good");
  after.finish();
  EXPECT_EQ(log_, "checkpoint.after_save: 'test 'bad' = good || exit 7' ended with exit code 7\n");
  log_.clear();
  AfterSave killed("kill -9 $$ # {}", 10.0);
  killed.saved("x");
  killed.finish();
  EXPECT_EQ(log_, "checkpoint.after_save: 'kill -9 $$ # 'x'' was ended by signal 9\n");
}

TEST_F(AfterSaveTest, LeavesWhatTakesTooLongToItself) {
  const auto begin = std::chrono::steady_clock::now();
  {
    AfterSave after("sleep 2 # {}", 0.2);
    after.saved("first");
    after.saved("second");
    after.finish();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  EXPECT_EQ(log_,
            "checkpoint.after_save: 'sleep 2 # 'first'' is still running and left to itself after 0 s\n"
            "checkpoint.after_save: 'sleep 2 # 'second'' was not run\n");
}

TEST_F(AfterSaveTest, WaitsNoLongerThanSomebodyWants) {
  AfterSave after("sleep 2 # {}", 60.0);
  after.saved("x");
  int asked = 0;
  after.finish([&] { return ++asked == 3; });
  EXPECT_EQ(asked, 3);
  EXPECT_NE(log_.find("left to itself"), std::string::npos) << log_;
}

// Others wait for the worker that has failed, and would take it for lost.
TEST_F(AfterSaveTest, DoesNotWaitWhenTheRunFails) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    AfterSave after("sleep 2 # {}", 60.0);
    after.saved("x");
    throw std::runtime_error("the disk is full");
  } catch (const std::runtime_error&) {
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  }
  EXPECT_EQ(log_, "checkpoint.after_save: 'sleep 2 # 'x'' is still running and left to itself after 0 s\n");
  // What is done while an exception is on its way may well wait.
  struct Saves {
    ~Saves() {
      AfterSave after("sleep 0.3; echo {} >>" + said, 10.0);
      after.saved("x");
    }
    std::string said;
  };
  try {
    const Saves saves{scratch_.file("said")};
    throw std::runtime_error("the disk is full");
  } catch (const std::runtime_error&) {
    EXPECT_EQ(content_of(scratch_.file("said")), "x\n");
  }
}

// mpirun reads the stderr of a worker until nobody has it any more.
TEST_F(AfterSaveTest, WhatIsLeftToItselfHoldsNothingOfOursAndIsNotDisturbed) {
  const std::string done = scratch_.file("done");
  // Of the second one the shell is through, and what it has left in the background is not.
  for (const std::string end : {"", " &"}) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const auto begin = std::chrono::steady_clock::now();
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(ends[1], STDERR_FILENO);
      {
        AfterSave after("echo told; (sleep 3; head -c 300000 /dev/zero && echo {} >>" + done + ")" + end,
                        0.5);
        after.saved("x");
      }
      ::_exit(0);
    }
    ::close(ends[1]);
    std::string said;
    for (char c = 0; ::read(ends[0], &c, 1) == 1;) said += c;
    ::close(ends[0]);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
    EXPECT_EQ(said, "told\n");
    ::waitpid(child, nullptr, 0);
    for (int looks = 0; looks < 200 && content_of(done).empty(); ++looks)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(content_of(done), "x\n");
    std::filesystem::remove(done);
  }
}

TEST_F(AfterSaveTest, ShowsAllThatACommandWrites) {
  ::testing::internal::CaptureStderr();
  {
    AfterSave after("head -c 300000 /dev/zero; echo {} >&2; echo more; (sleep 30 &)", 60.0);
    after.saved("x");
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(said == std::string(300000, '\0') + "x\nmore\n") << said.size() << " bytes";
}

TEST_F(AfterSaveTest, FindsTheFileOfEachCheckpointInPlace) {
  RunSettings settings;
  settings.output = scratch_.file("run");
  settings.keep = 1;
  settings.after_save = "cp {} " + scratch_.file("") + "copies/";
  std::filesystem::create_directory(scratch_.file("copies"));
  {
    RunKeeper keeper(settings, false);
    keeper.start({}, {}, "");
    for (const int64_t step : {3, 5}) {
      keeper.save(step, BestCheckpoint(""), [&] {
        State state;
        state.scalars["/train/step"] = step;
        return state;
      });
      keeper.finish(false);
    }
  }
  for (const std::string step : {"3", "5"})
    EXPECT_EQ(read_checkpoint(scratch_.file("copies/step-00000000" + step + ".h5")).scalars.at("/train/step"),
              Scalar(static_cast<int64_t>(std::stoi(step))));
  EXPECT_EQ(log_.find("after_save"), std::string::npos) << log_;
}

}  // namespace
}  // namespace lockstep
