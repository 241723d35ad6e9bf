// The contract over the communicators that need no launcher, and how the communicator is chosen.
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

#include "comm/communicator_contract.h"
#include "comm/threaded_communicator.h"
#include "lockstep/core/error.h"

namespace lockstep::testing {
namespace {

World self_world() {
  return {"self", [](const std::function<void(Communicator&)>& work) { work(*make_self_communicator()); }};
}

World threaded_world(int world_size) {
  return {"threads" + std::to_string(world_size),
          [world_size](const std::function<void(Communicator&)>& work) { run_threaded(world_size, work); }};
}

INSTANTIATE_TEST_SUITE_P(OneProcess, CommunicatorContract,
                         ::testing::Values(self_world(), threaded_world(1), threaded_world(2),
                                           threaded_world(5)),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(SelfCommunicator, CopiesBlocksToItselfInOrder) {
  const auto self = make_self_communicator();
  const int a = 1, b = 2;
  int first = 0, second = 0;
  self->exchange({{0, &a, sizeof(int)}, {0, nullptr, 0}, {0, &b, sizeof(int)}},
                 {{0, &first, sizeof(int)}, {0, &second, sizeof(int)}}, "two")
      ->wait();
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 2);
}

void expect_failure(ErrorKind kind, const std::string& message, const std::function<void()>& work) {
  try {
    work();
    FAIL() << "expected: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    EXPECT_EQ(error.what(), message);
  }
}

TEST(SelfCommunicator, RefusesBlocksThatDoNotMatch) {
  const auto self = make_self_communicator();
  int64_t a = 0, b = 0;
  expect_failure(ErrorKind::kCommunication, "exchange (sizes) on rank 0: 8 bytes sent by rank 0, 4 awaited",
                 [&] {
                   self->exchange({{0, &a, 8}}, {{0, &b, 4}}, "sizes");
                 });
  expect_failure(ErrorKind::kCommunication, "exchange (counts) on rank 0: 1 blocks sent to rank 0, 0 awaited",
                 [&] {
                   self->exchange({{0, &a, 8}}, {}, "counts");
                 });
  expect_failure(ErrorKind::kInternal, "communicator (ranks): no rank 1 among 1", [&] {
    self->exchange({{1, &a, 8}}, {}, "ranks");
  });
  expect_failure(ErrorKind::kInternal, "communicator (root): no rank -1 among 1",
                 [&] { self->broadcast(&a, 8, -1, "root"); });
}

TEST(SelfCommunicator, AbortLeavesWithTheExitCode) {
  EXPECT_EXIT(make_self_communicator()->abort(6), ::testing::ExitedWithCode(6), "");
}

// Sets or clears the variables by which launchers announce themselves, for the time of a test.
class LauncherVariables {
 public:
  LauncherVariables() {
    for (const char* name : kNames) {
      const char* value = std::getenv(name);
      previous_.push_back(value != nullptr ? std::optional<std::string>(value) : std::nullopt);
      unsetenv(name);
    }
  }
  ~LauncherVariables() {
    for (size_t i = 0; i < previous_.size(); ++i) {
      unsetenv(kNames[i]);
      if (previous_[i]) setenv(kNames[i], previous_[i]->c_str(), 1);
    }
  }
  static constexpr const char* kNames[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};

 private:
  std::vector<std::optional<std::string>> previous_;
};

TEST(MakeCommunicator, IsAloneWithoutALauncher) {
  const LauncherVariables cleared;
  EXPECT_FALSE(launched_by_mpi());
  EXPECT_EQ(make_communicator({})->description(), "self: 1 worker");
}

TEST(MakeCommunicator, RecognizesEveryLauncher) {
  const LauncherVariables cleared;
  for (const char* name : LauncherVariables::kNames) {
    setenv(name, "0", 1);
    EXPECT_TRUE(launched_by_mpi()) << name;
    unsetenv(name);
  }
}

TEST(MakeCommunicator, RefusesTasksOfSlurmThatDoNotKnowOfEachOther) {
  const LauncherVariables cleared;
  setenv("SLURM_STEP_NUM_TASKS", "1", 1);
  EXPECT_EQ(make_communicator({})->world_size(), 1);
  setenv("SLURM_STEP_NUM_TASKS", "2", 1);
  try {
    make_communicator({});
    ADD_FAILURE() << "two separate runs";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("srun --mpi=pmix"), std::string::npos) << error.what();
  }
  unsetenv("SLURM_STEP_NUM_TASKS");
}

}  // namespace
}  // namespace lockstep::testing
