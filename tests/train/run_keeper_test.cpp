// Rank 0's directory: what is refused, what is found again.
#include "lockstep/train/run_keeper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <new>

#include "hdf5/scratch_directory.h"
#include "lockstep/comm/deadline.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

RunSettings settings_in(const std::string& directory) {
  RunSettings settings;
  settings.name = "kept";
  settings.output = directory;
  settings.keep = 2;
  return settings;
}

State state_of(int64_t step) {
  State state;
  state.arrays.push_back({"/parameters/w", DType::kF32, {1}, std::vector<std::byte>(4)});
  state.scalars["/train/step"] = step;
  return state;
}

class RunKeeperTest : public ::testing::Test {
 protected:
  std::string directory() const { return scratch_.file("run"); }
  std::string error_of(const std::function<void()>& part, ErrorKind kind) {
    try {
      part();
    } catch (const Error& error) {
      return error.kind() == kind ? error.what() : std::string("wrong kind: ") + error.what();
    }
    return "no error";
  }
  testing::ScratchDirectory scratch_;
};

TEST_F(RunKeeperTest, SavesAndFindsAgainWithTheMetricsSoFar) {
  {
    RunKeeper keeper(settings_in(directory()), false);
    keeper.store().require_fresh();
    keeper.start({}, {}, "a = 1\n");
    for (int64_t step = 1; step <= 4; ++step) {
      StepMetrics metrics;
      metrics.step = step;
      metrics.loss = 1.0 / static_cast<double>(step);
      keeper.log(metrics);
      keeper.save(step, BestCheckpoint(""), [&] { return state_of(step); });
    }
    keeper.finish(false);
  }
  EXPECT_EQ(testing::bytes_of(directory() + "/configuration.toml"), "a = 1\n");
  EXPECT_NE(testing::bytes_of(directory() + "/loss.svg").find("kept: loss"), std::string::npos);
  RunKeeper keeper(settings_in(directory()), true);
  const auto [path, state] = keeper.newest();
  EXPECT_EQ(path, keeper.path_of(4));
  EXPECT_EQ(state.scalars.at("/train/step"), Scalar(int64_t{4}));
  EXPECT_EQ(state.metrics, "");
  const std::string metrics = testing::bytes_of(directory() + "/metrics.jsonl");
  EXPECT_EQ(std::ranges::count(metrics, '\n'), 4);
  EXPECT_EQ(state.metrics_file.substr(0, state.metrics_file.find(' ')), std::to_string(metrics.size()));
  EXPECT_FALSE(std::filesystem::exists(keeper.path_of(2)));
  EXPECT_TRUE(std::filesystem::exists(keeper.path_of(3)));
}

// With one line a step, 200,000 steps made checkpoints of 83 MB for 0.13 MB of state.
TEST_F(RunKeeperTest, FlightsOfAnEarlierRunGoWithItAndThoseOfThisOneStay) {
  std::filesystem::create_directory(directory());
  const std::string flight = directory() + "/flight-1.tsv";
  std::ofstream(flight) << "all-reduce";
  std::ofstream(directory() + "/flight-plan.txt") << "mine";
  RunKeeper(settings_in(directory()), true).start({}, {}, "a = 1\n", "1700000000000");
  EXPECT_TRUE(std::filesystem::exists(flight));
  RunKeeper(settings_in(directory()), false).start({}, {}, "a = 1\n");
  EXPECT_FALSE(std::filesystem::exists(flight));
  EXPECT_TRUE(std::filesystem::exists(directory() + "/flight-plan.txt"));
}

TEST_F(RunKeeperTest, BeginsNowOrAfterTheRunThatItReplaces) {
  RunKeeper keeper(settings_in(directory()), false);
  const auto milliseconds = [] {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  };
  const int64_t before = milliseconds();
  keeper.start({}, {}, "", "", before - 1000);
  EXPECT_GE(std::stoll(keeper.begun()), before);
  EXPECT_LE(std::stoll(keeper.begun()), milliseconds());
  keeper.start({}, {}, "", "", 9000000000000);
  EXPECT_EQ(keeper.begun(), "9000000000001");
  keeper.start({}, {}, "", "1700000000000", 9000000000000);
  EXPECT_EQ(keeper.begun(), "1700000000000") << "resumed";
}

TEST_F(RunKeeperTest, CheckpointsDoNotGrowWithTheRun) {
  RunKeeper keeper(settings_in(directory()), false);
  keeper.start({}, {}, "");
  std::vector<uintmax_t> sizes;
  for (int64_t step = 1; step <= 4000; ++step) {
    keeper.log_digest(step, "0123456789abcdef0123456789abcdef");
    if (step != 10 && step != 4000) continue;
    keeper.save(step, BestCheckpoint(""), [&] { return state_of(step); });
    keeper.finish_write();
    sizes.push_back(std::filesystem::file_size(keeper.path_of(step)));
  }
  EXPECT_LE(sizes[1], sizes[0] + 512) << "a few digits more";
}

TEST_F(RunKeeperTest, ACheckpointWhoseCopyHasNoRoomIsNamed) {
  RunKeeper keeper(settings_in(directory()), false);
  keeper.store().require_fresh();
  keeper.start({}, {}, "a = 1\n");
  const std::string message =
      error_of([&] { keeper.save(7, BestCheckpoint(""), []() -> State { throw std::bad_alloc(); }); },
               ErrorKind::kCheckpoint);
  EXPECT_TRUE(message.starts_with(directory() + "/step-000000007.h5: no memory for a copy of the state: "))
      << message;
}

TEST_F(RunKeeperTest, RefusesADirectoryThatHoldsAnEarlierRun) {
  {
    RunKeeper keeper(settings_in(directory()), false);
    keeper.start({}, {}, "");
    keeper.save(3, BestCheckpoint(""), [] { return state_of(3); });
    keeper.finish(false);
  }
  RunKeeper keeper(settings_in(directory()), false);
  EXPECT_EQ(error_of([&] { keeper.store().require_fresh(); }, ErrorKind::kUsage),
            directory() +
                ": already holds step-000000003.h5; continue it with --resume, delete it with "
                "--overwrite, or choose another --output");
}

TEST_F(RunKeeperTest, RefusesToResumeWhatIsNotThere) {
  EXPECT_EQ(error_of([&] { RunKeeper(settings_in(directory()), true); }, ErrorKind::kCheckpoint),
            directory() + ": --resume: there is no such directory on host " + host_name());
  EXPECT_FALSE(std::filesystem::exists(directory()));
  std::filesystem::create_symlink("loop", scratch_.file("loop"));
  EXPECT_EQ(
      error_of([&] { RunKeeper(settings_in(scratch_.file("loop/run")), true); }, ErrorKind::kCheckpoint),
      scratch_.file("loop/run") + ": --resume: cannot look for the directory on host " + host_name() +
          ": Too many levels of symbolic links");
  std::filesystem::create_directory(directory());
  const RunKeeper keeper(settings_in(directory()), true);
  EXPECT_EQ(error_of([&] { keeper.newest(); }, ErrorKind::kCheckpoint),
            directory() + ": --resume: there is no checkpoint in this directory on host " + host_name());
}

TEST_F(RunKeeperTest, IsAloneInItsDirectory) {
  const RunKeeper keeper(settings_in(directory()), false);
  EXPECT_NE(error_of([&] { RunKeeper(settings_in(directory()), false); }, ErrorKind::kUsage), "no error");
}

}  // namespace
}  // namespace lockstep
