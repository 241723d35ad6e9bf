// The store of a run: background writes, retention, fallback to older files, and the lock of the directory.
#include "lockstep/checkpoint/store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <set>
#include <span>
#include <thread>

#include "checkpoint/sample_state.h"
#include "core/error_message.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using testing::expect_contains;
using testing::message_of;
using testing::overwrite;
using testing::ScratchDirectory;

State state_of(int64_t step) {
  State state = testing::sample_state(60);
  state.scalars["/data/step"] = step;
  return state;
}

class StoreTest : public ::testing::Test {
 protected:
  std::set<std::string> names() const {
    std::set<std::string> result;
    for (const auto& entry : fs::directory_iterator(directory_.path()))
      result.insert(entry.path().filename().string());
    return result;
  }
  std::string file_of(int64_t step) const { return CheckpointStore({directory_.path()}).path_of(step); }
  void save(int64_t step, int64_t keep = 0, int64_t keep_every = 0) const {
    CheckpointStore store({directory_.path(), keep, keep_every});
    store.save(step, state_of(step));
    store.finish();
  }

  ScratchDirectory directory_;
};

using Names = std::set<std::string>;

TEST_F(StoreTest, FilesAreNamedByStep) {
  const CheckpointStore store({directory_.path()});
  EXPECT_EQ(store.path_of(1000), directory_.file("step-000001000.h5"));
  EXPECT_EQ(store.path_of(12345678901), directory_.file("step-12345678901.h5"));
}

TEST_F(StoreTest, SavedStateLoads) {
  CheckpointStore store({directory_.path()});
  store.save(7, state_of(7));
  store.finish();
  std::vector<std::string> skipped;
  const auto loaded = store.load_newest(skipped);
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->first, store.path_of(7));
  EXPECT_EQ(state_digest(loaded->second), state_digest(state_of(7)));
  EXPECT_TRUE(skipped.empty());
}

TEST_F(StoreTest, WhatIsNoCopyIsInPlaceWhenSaveReturns) {
  State held = state_of(7), references = state_of(7);
  for (size_t i = 0; i < held.arrays.size(); ++i) {
    references.arrays[i].bytes.clear();
    references.arrays[i].elsewhere = [&bytes = held.arrays[i].bytes](std::vector<std::byte>&) {
      return std::span<const std::byte>(bytes);
    };
  }
  CheckpointStore store({directory_.path()});
  store.save(7, references, -1, true);
  for (StateArray& array : held.arrays) std::ranges::fill(array.bytes, std::byte{0xff});
  EXPECT_FALSE(store.writing());
  store.finish();
  EXPECT_EQ(state_digest(read_checkpoint(store.path_of(7))), state_digest(state_of(7)));
}

TEST_F(StoreTest, AnArrayElsewhereOfAnotherSizeIsRefused) {
  State state = state_of(7);
  state.arrays[0].elsewhere = [](std::vector<std::byte>& room) { return std::span<const std::byte>(room); };
  CheckpointStore store({directory_.path()});
  store.save(7, state, -1, true);
  expect_contains(message_of([&] { store.finish(); }, ErrorKind::kInternal),
                  {state.arrays[0].path, "0 bytes for"});
  EXPECT_EQ(names(), Names());
}

TEST_F(StoreTest, DestructorWaitsForTheWrite) {
  {
    CheckpointStore store({directory_.path()});
    store.save(1, testing::sample_state(600000));
  }
  EXPECT_EQ(names(), Names{"step-000000001.h5"});
}

TEST_F(StoreTest, NewestFilesAndMultiplesAreKept) {
  CheckpointStore store({directory_.path(), 2, 30});
  for (int64_t step = 10; step <= 80; step += 10) store.save(step, state_of(step));
  store.finish();
  EXPECT_EQ(names(),
            (Names{"step-000000030.h5", "step-000000060.h5", "step-000000070.h5", "step-000000080.h5"}));
}

TEST_F(StoreTest, KeepZeroKeepsAll) {
  for (int64_t step = 1; step <= 5; ++step) save(step, 0);
  EXPECT_EQ(names().size(), 5u);
}

TEST_F(StoreTest, KeepOneLeavesTheNewest) {
  for (int64_t step = 1; step <= 4; ++step) {
    save(step, 1);
    EXPECT_EQ(names().size(), 1u);
  }
  EXPECT_EQ(names(), Names{"step-000000004.h5"});
}

// After a fallback, steps beyond the resumed one may be damaged: they must not crowd out good ones, nor the
// new file itself.
TEST_F(StoreTest, LaterStepsDoNotCountAgainstTheKept) {
  save(100);
  save(200);
  save(500);
  overwrite(file_of(500), "damaged");
  save(210, 2);
  EXPECT_EQ(names(), (Names{"step-000000200.h5", "step-000000210.h5", "step-000000500.h5"}));
}

TEST_F(StoreTest, RetentionTouchesNothingElse) {
  const Names others = {"step-1.h5", "step-0000000001.h5", "step-00000000x.h5", "notes.txt",
                        "step-000000001.h5.old"};
  for (const std::string& name : others) overwrite(directory_.file(name), "x");
  for (int64_t step = 1; step <= 3; ++step) save(step, 1);
  Names expected = others;
  expected.insert("step-000000003.h5");
  EXPECT_EQ(names(), expected);
}

TEST_F(StoreTest, NewestUsableFileIsFoundAndSkippedOnesAreNamed) {
  for (int64_t step : {10, 20, 30}) save(step);
  overwrite(file_of(30), testing::bytes_of(file_of(30)).substr(0, 4096));
  std::string damaged = testing::bytes_of(file_of(20));
  damaged[2000] = static_cast<char>(damaged[2000] ^ 1);
  overwrite(file_of(20), damaged);
  overwrite(directory_.file(".step-000000040.h5.tmp-1"), "unfinished");
  std::vector<std::string> skipped;
  const auto loaded = CheckpointStore({directory_.path()}).load_newest(skipped);
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->first, file_of(10));
  EXPECT_EQ(state_digest(loaded->second), state_digest(state_of(10)));
  ASSERT_EQ(skipped.size(), 2u);
  expect_contains(skipped[0], {file_of(30) + ": truncated"});
  expect_contains(skipped[1], {file_of(20) + ": damaged"});
}

TEST_F(StoreTest, NoFilesIsNotAnErrorButOnlyBadOnesAre) {
  std::vector<std::string> skipped;
  EXPECT_FALSE(CheckpointStore({directory_.path()}).load_newest(skipped).has_value());
  overwrite(file_of(10), "");
  overwrite(file_of(20), "x");
  const CheckpointStore store({directory_.path()});
  expect_contains(message_of([&] { store.load_newest(skipped); }, ErrorKind::kCheckpoint),
                  {directory_.path(), "none of 2 checkpoints", "step-000000020.h5: ", "step-000000010.h5: "});
  EXPECT_EQ(skipped.size(), 2u);
}

TEST_F(StoreTest, TheNewestStepIsKnownWithoutReading) {
  CheckpointStore store({directory_.path()});
  EXPECT_FALSE(store.newest_step());
  overwrite(file_of(20), "no checkpoint");
  overwrite(file_of(3), "");
  EXPECT_EQ(store.newest_step(), 20);
}

TEST_F(StoreTest, ADirectoryIsNoCheckpoint) {
  save(10);
  fs::create_directories(file_of(30) + "/below");
  CheckpointStore store({directory_.path()});
  EXPECT_EQ(store.newest_step(), 10);
  std::vector<std::string> skipped;
  EXPECT_EQ(store.load_newest(skipped)->first, store.path_of(10));
  EXPECT_TRUE(skipped.empty());
  store.set_aside();
  EXPECT_TRUE(fs::is_directory(store.path_of(30)));
  // Nor does it keep one from being written.
  store.save(30, state_of(30));
  store.finish();
  EXPECT_EQ(names(), (Names{"step-000000030.h5", "step-000000030.h5.directory"}));
  EXPECT_TRUE(fs::is_directory(store.path_of(30) + ".directory/below"));
}

TEST_F(StoreTest, WhatIsSetAsideComesBackUnlessThereIsACheckpointInItsPlace) {
  for (const int64_t step : {10, 20}) save(step);
  overwrite(directory_.file("step-1.h5"), "another's");
  overwrite(directory_.file("log"), "old");
  StoreOptions options{directory_.path()};
  options.beside = {"log", "absent"};
  {
    CheckpointStore store(options);
    store.set_aside();
    EXPECT_EQ(names(), (Names{".overwritten", "step-1.h5"}));
    EXPECT_FALSE(store.newest_step());
    std::vector<std::string> skipped;
    EXPECT_FALSE(store.load_newest(skipped));
    overwrite(directory_.file("log"), "of the new run");
  }
  EXPECT_EQ(names(), (Names{"log", "step-000000010.h5", "step-000000020.h5", "step-1.h5"}))
      << "by the destructor";
  EXPECT_EQ(testing::bytes_of(directory_.file("log")), "old");
  {
    CheckpointStore store(options);
    store.set_aside();
    overwrite(directory_.file("log"), "of the new run");
    store.save(5, state_of(5));
    store.finish();
    EXPECT_EQ(names(), (Names{"log", "step-000000005.h5", "step-1.h5"}));
  }
  EXPECT_EQ(names(), (Names{"log", "step-000000005.h5", "step-1.h5"}));
  EXPECT_EQ(testing::bytes_of(directory_.file("log")), "of the new run");
}

// One that fails leaves no checkpoint in their place.
TEST_F(StoreTest, WhatIsSetAsideGoesWithTheFirstSaveThatSucceeds) {
  for (const int64_t step : {10, 20}) save(step);
  CheckpointStore store({directory_.path()});
  store.set_aside();
  State unwritable = state_of(5);
  unwritable.scalars["/format/step"] = int64_t{5};  // a name of the file's own
  store.save(5, unwritable);
  message_of([&] { store.finish(); }, ErrorKind::kInternal);
  EXPECT_EQ(names(), Names{".overwritten"});
  EXPECT_EQ(testing::files_in(directory_.file(".overwritten")), 2u);
  store.save(10, state_of(10));
  store.finish();
  EXPECT_EQ(names(), Names{"step-000000010.h5"});
}

// What a process that died left: while files moved, when all had, and after the first checkpoint of the new
// run.
TEST_F(StoreTest, WhatWasSetAsideIsFoundByTheNextStore) {
  const Names old = {"step-000000010.h5", "step-000000020.h5"};
  {
    SCOPED_TRACE("moving");
    save(10);
    save(20);
    fs::create_directory(directory_.file(".overwritten.moving"));
    fs::rename(directory_.file("step-000000020.h5"),
               directory_.file(".overwritten.moving/step-000000020.h5"));
    const CheckpointStore store({directory_.path()});
    EXPECT_EQ(names(), old);
  }
  {
    SCOPED_TRACE("moved");
    fs::create_directory(directory_.file(".overwritten"));
    for (const std::string& name : old)
      fs::rename(directory_.file(name), directory_.file(".overwritten/" + name));
    const CheckpointStore store({directory_.path()});
    EXPECT_EQ(names(), old);
  }
  {
    SCOPED_TRACE("committed");
    fs::create_directory(directory_.file(".overwritten"));
    fs::rename(directory_.file("step-000000020.h5"), directory_.file(".overwritten/step-000000020.h5"));
    overwrite(directory_.file(".overwritten/notes"), "somebody's");
    const CheckpointStore store({directory_.path()});
    EXPECT_EQ(names(), (Names{".overwritten", "step-000000010.h5"}));
    EXPECT_EQ(testing::files_in(directory_.file(".overwritten")), 1u) << "what is not ours stays";
  }
  {
    SCOPED_TRACE("somebody else's folder");
    fs::remove(directory_.file("step-000000010.h5"));
    const CheckpointStore store({directory_.path()});
    EXPECT_EQ(names(), Names{".overwritten"});
  }
}

TEST_F(StoreTest, AFileThatCannotBeReadIsNotPassedOver) {
  for (int64_t step : {10, 20}) save(step);
  fs::remove(file_of(20));
  fs::create_symlink(file_of(20), file_of(20));  // cannot be opened by anyone
  const CheckpointStore store({directory_.path()});
  std::vector<std::string> skipped;
  expect_contains(message_of([&] { store.load_newest(skipped); }, ErrorKind::kCheckpoint),
                  {file_of(20) + ": cannot open: "});
}

TEST_F(StoreTest, AFileOfAnotherStepThanItsNameSaysIsRefused) {
  CheckpointStore store({directory_.path()});
  State state = state_of(7);
  state.scalars["/train/step"] = int64_t{7};
  store.save(7, state);
  store.finish();
  std::vector<std::string> skipped;
  EXPECT_TRUE(store.load_newest(skipped));
  fs::rename(store.path_of(7), store.path_of(70));
  expect_contains(message_of([&] { store.load_newest(skipped); }, ErrorKind::kCheckpoint),
                  {store.path_of(70), "holds step 7"});
}

TEST_F(StoreTest, FailedWriteIsReportedOnceByFinishOrTheNextSave) {
  CheckpointStore store({directory_.path()});
  {
    const testing::FileSizeLimit limit(1000);
    store.save(5, state_of(5));
    expect_contains(message_of([&] { store.finish(); }, ErrorKind::kCheckpoint),
                    {"step-000000005.h5", "File too large"});
    EXPECT_NO_THROW(store.finish());
    store.save(5, state_of(5));
    message_of([&] { store.save(6, state_of(6)); }, ErrorKind::kCheckpoint);
  }
  store.save(6, state_of(6));
  store.finish();
  EXPECT_EQ(names(), Names{"step-000000006.h5"});
}

TEST_F(StoreTest, PollReportsAFailureWithoutBlocking) {
  CheckpointStore store({directory_.path()});
  EXPECT_NO_THROW(store.poll());
  const testing::FileSizeLimit limit(1000);
  store.save(5, state_of(5));
  bool reported = false;
  for (int i = 0; i < 5000 && !reported; ++i) {
    try {
      store.poll();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } catch (const Error& error) {
      reported = true;
    }
  }
  EXPECT_TRUE(reported);
}

TEST_F(StoreTest, AWriteThatIsWaitedForLongIsSpokenOf) {
  StoreOptions options{directory_.path()};
  options.say_every = 0.001;
  CheckpointStore store(options);
  log_to_stderr(0, 1, false);
  ::testing::internal::CaptureStderr();
  store.save(5, testing::sample_state(3'000'000));
  store.finish();
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.rfind("still saving to " + directory_.path() + ", for ", 0), 0u) << said;
}

TEST_F(StoreTest, TemporaryFilesOfDeadProcessesAreRemoved) {
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  ::waitpid(dead, nullptr, 0);
  const std::string prefix = ".step-000000010.h5.tmp-";
  const std::string of_dead = prefix + std::to_string(dead), of_living = prefix + std::to_string(::getppid());
  const std::string own = prefix + std::to_string(::getpid());
  const Names others = {of_living, ".step-000000010.h5.tmp-x", ".other.tmp-" + std::to_string(dead)};
  for (const std::string& name : others) overwrite(directory_.file(name), "x");
  overwrite(directory_.file(of_dead), "x");
  overwrite(directory_.file(own), "x");
  const Names strangers = {".step-000000010.h5.tmp-x", ".other.tmp-" + std::to_string(dead)};
  { const CheckpointStore store({directory_.path()}); }
  EXPECT_EQ(names(), others);
  // A held lock proves that a process which has the number now is another one.
  const CheckpointStore store({.directory = directory_.path(), .alone = true});
  EXPECT_EQ(names(), strangers);
}

TEST_F(StoreTest, KilledRunLeavesALoadableStore) {
  save(1);
  const pid_t child = ::fork();
  if (child == 0) {
    CheckpointStore store({directory_.path(), 2});
    for (int64_t step = 2;; ++step) store.save(step, testing::sample_state(60000));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const CheckpointStore store({directory_.path()});
  std::vector<std::string> skipped;
  EXPECT_TRUE(store.load_newest(skipped).has_value());
  EXPECT_TRUE(skipped.empty());
  for (const std::string& name : names()) EXPECT_FALSE(name.starts_with(".")) << name;
}

TEST_F(StoreTest, UnwritableDirectoryIsAUsageErrorAtOnce) {
  overwrite(directory_.file("file"), "x");
  for (const std::string& path :
       {directory_.file("file"), directory_.file("file/below"), std::string("/proc/nope")}) {
    expect_contains(message_of([&] { CheckpointStore({path}); }, ErrorKind::kUsage), {path + ": cannot"});
    expect_contains(message_of([&] { DirectoryLock lock(path); }, ErrorKind::kUsage), {path + ": cannot"});
  }
  expect_contains(message_of([&] { DirectoryLock lock("/proc"); }, ErrorKind::kUsage),
                  {"/proc: cannot write"});
}

TEST_F(StoreTest, ASymbolicLinkIsNoLock) {
  overwrite(directory_.file("precious"), "precious");
  fs::create_symlink(directory_.file("precious"), directory_.file(".lockstep.lock"));
  expect_contains(message_of([&] { DirectoryLock lock(directory_.path()); }, ErrorKind::kUsage),
                  {directory_.file(".lockstep.lock"), "symbolic link"});
  EXPECT_EQ(testing::bytes_of(directory_.file("precious")), "precious");
}

TEST_F(StoreTest, ReadOnlyDiskIsAUsageErrorAtOnce) {
  const testing::SmallDisk disk("1m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not permitted here";
  ASSERT_EQ(::mount("none", disk.path().c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m"), 0);
  expect_contains(message_of([&] { CheckpointStore({disk.path()}); }, ErrorKind::kUsage),
                  {"Read-only file system"});
  expect_contains(message_of([&] { DirectoryLock lock(disk.path()); }, ErrorKind::kUsage),
                  {"Read-only file system"});
}

// A run whose directory is deleted under it must not take another's of that name for its own.
TEST_F(StoreTest, ADirectoryThatAnotherRunHasMadeAnewIsLeftAlone) {
  const std::string directory = directory_.file("run");
  DirectoryLock lock(directory);
  CheckpointStore store({.directory = directory, .keep = 1, .writes = [&] { lock.require_held(); }});
  store.save(100, state_of(100));
  store.finish();
  fs::remove_all(directory);
  const auto refused = [&](int64_t step) {
    store.save(step, state_of(step));
    expect_contains(message_of([&] { store.finish(); }, ErrorKind::kCheckpoint),
                    {directory + ": was deleted or replaced"});
  };
  refused(200);
  {
    CheckpointStore other({directory});
    other.save(10, state_of(10));
    other.save(20, state_of(20));
  }
  refused(300);
  overwrite(directory + "/.lockstep.lock", "host another, pid 1\n");
  refused(400);
  EXPECT_EQ(checkpoint_steps(directory), (std::vector<int64_t>{20, 10}));
}

// As by somebody who takes it for one that a run has left over.
TEST_F(StoreTest, ALockThatIsDeletedAloneIsMadeAnewAndKeepsOthersOut) {
  const std::string directory = directory_.file("run");
  DirectoryLock lock(directory);
  CheckpointStore store({.directory = directory, .writes = [&] { lock.require_held(); }});
  store.save(100, state_of(100));
  store.finish();
  fs::remove(directory + "/.lockstep.lock");
  store.save(200, state_of(200));
  store.finish();
  EXPECT_EQ(checkpoint_steps(directory), (std::vector<int64_t>{200, 100}));
  expect_contains(message_of([&] { DirectoryLock other(directory); }, ErrorKind::kUsage),
                  {"in use by another run"});
  fs::rename(directory, directory_.file("elsewhere"));
  store.save(300, state_of(300));
  expect_contains(message_of([&] { store.finish(); }, ErrorKind::kCheckpoint), {"was deleted or replaced"});
}

TEST_F(StoreTest, SecondRunIsToldWhoHoldsTheDirectory) {
  const std::string directory = directory_.file("new/output");
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(directory);
    const ssize_t written = ::write(ready[1], "x", 1);
    ::pause();
    ::_exit(written == 1 ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  expect_contains(message_of([&] { DirectoryLock lock(directory); }, ErrorKind::kUsage),
                  {directory, "in use by another run", host, "pid " + std::to_string(child)});
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const DirectoryLock taken_over(directory);
  ::close(ready[0]);
  ::close(ready[1]);
}

// Workers live on for a second after their mpirun was killed.
TEST_F(StoreTest, ADirectoryWhoseHolderIsAboutToEndIsWaitedFor) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(directory_.path());
    const ssize_t written = ::write(ready[1], "x", 1);
    ::usleep(1'500'000);
    ::_exit(written == 1 ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_NO_THROW({ const DirectoryLock taken_over(directory_.path()); });
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(StoreTest, LockIsExclusiveWithinAProcessAndReleased) {
  {
    const DirectoryLock first(directory_.path());
    message_of([&] { DirectoryLock second(directory_.path()); }, ErrorKind::kUsage);
  }
  const DirectoryLock again(directory_.path());
}

}  // namespace
}  // namespace lockstep
