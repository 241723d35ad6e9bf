// Copies of checkpoints on other hosts: workers that are threads, each with a directory of its own.
#include "lockstep/train/checkpoint_copies.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <mutex>

#include "checkpoint/sample_state.h"
#include "comm/threaded_communicator.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/train/agreement.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::overwrite;

class CheckpointCopiesTest : public ::testing::Test {
 protected:
  CheckpointCopiesTest() {
    set_log([this](LogLevel, const std::string& message) { said_ += message + "\n"; });
  }
  ~CheckpointCopiesTest() override { log_to_stderr(0, 1, false); }

  std::string directory(int rank) const { return scratch_.file("h" + std::to_string(rank + 1)); }
  std::string file(int rank, int64_t step) const {
    return CheckpointStore({.directory = directory(rank)}).path_of(step);
  }
  std::vector<int64_t> steps(int rank) const { return checkpoint_steps(directory(rank)); }
  void expect_said(const std::string& text) const {
    EXPECT_NE(said_.find(text), std::string::npos) << said_ << "\nlacks: " << text;
  }
  void leave(int rank, int64_t step, const std::string& begun = "1000") const {
    fs::create_directories(directory(rank));
    State state = testing::sample_state(198000 + 6 * step);
    state.begun = begun;
    write_checkpoint(state, file(rank, step));
  }
  static void damage(const std::string& path) {
    std::string bytes = bytes_of(path);
    bytes[3000] = static_cast<char>(bytes[3000] ^ 1);
    overwrite(path, bytes);
  }

  // What a worker of a run has.
  struct Worker {
    Communicator& communicator;
    std::unique_ptr<CheckpointStore> leader;
    std::optional<HostDirectories> directories;
    std::optional<CheckpointCopies> copies;
    bool leads() const { return communicator.rank() == 0; }

    // The end of a step.
    void step() {
      const CopyWord mine = copies->word();
      std::vector<CopyWord> words(static_cast<size_t>(communicator.world_size()));
      communicator.all_gather(&mine, sizeof mine, words.data(), "words")->wait();
      copies->hear([&](int rank) { return words[static_cast<size_t>(rank)]; });
    }
  };
  // `work` on workers that are each on a host of its own.
  void run(int workers, RunSettings settings, const std::function<void(Worker&)>& work) {
    std::vector<std::string> hosts;
    for (int i = 1; i <= workers; ++i) hosts.push_back("h" + std::to_string(i));
    const auto worker_of = [&](Communicator& communicator) {
      RunSettings mine = settings;
      if (mine.output.empty()) mine.output = directory(communicator.rank());
      Worker worker{communicator, {}, {}, {}};
      if (worker.leads())
        worker.leader = std::make_unique<CheckpointStore>(
            StoreOptions{.directory = mine.output, .keep = mine.keep, .beside = kBesideCheckpoints});
      worker.directories.emplace(mine, worker.leader.get(), communicator);
      worker.copies.emplace(mine, *worker.directories, communicator);
      work(worker);
    };
    testing::run_threaded(workers, worker_of, 20.0, false, hosts);
  }
  // Runs as far as to the newest checkpoint in rank 0's directory.
  void resume(int workers) {
    run(workers, with_replicas(1), [](Worker& worker) { worker.directories->bring_newest(); });
  }
  static RunSettings with_replicas(int64_t replicas) {
    RunSettings settings;
    settings.output = "";
    settings.replicas = replicas;
    settings.keep = 2;
    return settings;
  }

  testing::ScratchDirectory scratch_;
  std::string said_;  // the log's mutex keeps it
};

TEST_F(CheckpointCopiesTest, AreTheFilesToTheByteOnSoManyOtherHosts) {
  std::vector<std::string> lines;
  run(4, with_replicas(2), [&](Worker& worker) {
    EXPECT_TRUE(worker.copies->active());
    for (int64_t step = 1; step <= 3; ++step) {
      if (worker.leads()) {
        worker.leader->save(step, testing::sample_state(402000));
        worker.leader->finish();
        lines.push_back(lines.empty() ? "a line\n" : lines.back() + "another\n");
        overwrite(metrics_path(directory(0)), lines.back() + "of a step behind it\n");
        worker.copies->offer(step, 1, std::ssize(lines.back()));
      }
      for (int i = 0; i < 5; ++i) worker.step();
      worker.copies->finish(60.0);
    }
  });
  expect_said("copies of each checkpoint on h2, h3");
  for (const int rank : {1, 2}) {
    // The best one stays.
    EXPECT_EQ(steps(rank), (std::vector<int64_t>{3, 2, 1}));
    for (const int64_t step : {2, 3}) EXPECT_EQ(bytes_of(file(rank, step)), bytes_of(file(0, step)));
    EXPECT_EQ(bytes_of(metrics_path(directory(rank))), lines.back());
  }
  EXPECT_TRUE(steps(3).empty());
}

TEST_F(CheckpointCopiesTest, WhatIsThereAlreadyIsNotSentAgainAndOnlyTheNewestOfSeveralIs) {
  for (const int64_t step : {1, 2, 3}) leave(0, step);
  fs::create_directories(directory(1));
  fs::copy(file(0, 3), file(1, 3));
  const auto before = fs::last_write_time(file(1, 3));
  run(2, with_replicas(1), [&](Worker& worker) {
    if (worker.leads()) {
      worker.copies->offer(1, -1, 0);
      worker.copies->offer(3, -1, 0);
    }
    worker.copies->finish(60.0);
    if (worker.leads()) worker.copies->offer(2, -1, 0);
    worker.copies->finish(60.0);
  });
  EXPECT_EQ(fs::last_write_time(file(1, 3)), before);
  EXPECT_EQ(steps(1), (std::vector<int64_t>{3, 2}));
}

TEST_F(CheckpointCopiesTest, AFullDiskIsAWarningAndTheOtherHostsGetTheirs) {
  const testing::SmallDisk disk("1m");
  if (!disk.mounted()) GTEST_SKIP() << "no file system may be mounted here";
  leave(0, 5);
  fs::create_directory_symlink(disk.path(), directory(1));
  run(3, with_replicas(2), [&](Worker& worker) {
    for (int turn = 0; turn < 2; ++turn) {
      if (worker.leads()) worker.copies->offer(5, -1, 0);
      worker.copies->finish(60.0);
    }
  });
  expect_said("checkpoint.replicas: no copy on host h2: " + file(1, 5) +
              ": cannot be written: No space left on device");
  EXPECT_TRUE(steps(1).empty());
  EXPECT_EQ(testing::files_in(disk.path()), 1u) << "the lock";
  EXPECT_EQ(bytes_of(file(2, 5)), bytes_of(file(0, 5)));
}

TEST_F(CheckpointCopiesTest, WithASharedDirectoryNothingIsWrittenTwice) {
  RunSettings settings = with_replicas(1);
  settings.output = directory(0);
  leave(0, 5);
  run(3, settings, [&](Worker& worker) {
    EXPECT_FALSE(worker.copies->active());
    worker.directories->bring_newest();
  });
  expect_said("checkpoint.replicas: " + directory(0) +
              " on hosts h2, h3 is the directory that rank 0 writes to: nothing is copied there");
  EXPECT_EQ(said_.find("asked for"), std::string::npos) << said_;
}

TEST_F(CheckpointCopiesTest, TooFewHostsAreWarnedOf) {
  run(2, with_replicas(2), [&](Worker& worker) { EXPECT_TRUE(worker.copies->active()); });
  expect_said("checkpoint.replicas: 2 asked for, there is one host beside h1");
  run(1, with_replicas(1), [&](Worker& worker) { EXPECT_FALSE(worker.copies->active()); });
  expect_said("checkpoint.replicas: 1 asked for, there is no other host beside h1");
}

TEST_F(CheckpointCopiesTest, TheNewestComesFromWhereverItIs) {
  leave(0, 3);
  leave(1, 4);
  leave(2, 7);
  overwrite(metrics_path(directory(2)), "lines\n");
  resume(3);
  expect_said("looked for checkpoints on hosts h1 (step 3), h2 (step 4), h3 (step 7): taking that of h3");
  EXPECT_EQ(bytes_of(file(0, 7)), bytes_of(file(2, 7)));
  EXPECT_EQ(bytes_of(metrics_path(directory(0))), "lines\n");
  EXPECT_EQ(steps(0), (std::vector<int64_t>{7, 3}));
}

TEST_F(CheckpointCopiesTest, ADamagedNewestIsPassedOver) {
  leave(0, 3);
  leave(1, 4);
  leave(1, 7);
  damage(file(1, 7));
  resume(2);
  expect_said("skipped checkpoint " + file(1, 7) + ": damaged");
  expect_said("h1 (step 3), h2 (step 4): taking that of h2");
  EXPECT_EQ(steps(0), (std::vector<int64_t>{4, 3}));
}

TEST_F(CheckpointCopiesTest, ARunThatWasBegunLaterIsTheRunWhateverItsStep) {
  leave(0, 50, "1000");  // this host was away when the run was begun anew
  leave(1, 4, "2000");
  resume(2);
  expect_said("h1 (step 50), h2 (step 4): taking that of h2");
  expect_said(directory(0) + " on host h1: its checkpoints are of an earlier run, and make place");
  // Nothing was saved since: the others are there again.
  EXPECT_EQ(steps(0), (std::vector<int64_t>{50, 4}));
}

TEST_F(CheckpointCopiesTest, RankZerosOwnIsTakenWhereOthersHaveTheSameStep) {
  leave(0, 3);
  leave(1, 3);
  resume(2);
  expect_said("h1 (step 3), h2 (step 3): taking that of h1");
}

TEST_F(CheckpointCopiesTest, WhatCannotBeUsedAnywhereIsAnErrorThatSaysWhereItLooked) {
  leave(1, 4);
  damage(file(1, 4));
  try {
    resume(2);
    FAIL() << "no error";
  } catch (const AgreedFailure& failure) {
    EXPECT_EQ(failure.kind(), ErrorKind::kCheckpoint);
    EXPECT_EQ(failure.what(), directory(0) +
                                  ": --resume: there is no checkpoint that can be used in this directory; "
                                  "looked on hosts h1 (none), h2 (none)");
  }
  // One that cannot be read is not damaged: the run must not go back behind it unasked.
  leave(0, 3);
  fs::remove(file(1, 4));
  fs::create_symlink("/nowhere", file(1, 4));
  EXPECT_THROW(resume(2), AgreedFailure);
  // Unless another host has a newer one.
  leave(0, 5);
  resume(2);
  expect_said("h1 (step 5), h2 (none): taking that of h1");
}

}  // namespace
}  // namespace lockstep
