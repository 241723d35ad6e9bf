// Memory that workers see of each other, and what happens where they do not.
#include "lockstep/comm/host_group.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/threaded_communicator.h"
#include "lockstep/core/log.h"

namespace lockstep::testing {
namespace {

TEST(RankGroups, AreRunsOfWorkersOnHostsOfTheSameName) {
  const std::vector<std::string> hosts = {"a", "a", "b", "a", "c", "c", "c"};
  run_threaded(
      7,
      [](Communicator& communicator) {
        EXPECT_EQ(groups_by_host(communicator), (RankGroups{{0, 2}, {2, 3}, {3, 4}, {4, 7}}));
      },
      20.0, false, hosts);
  EXPECT_EQ(each_alone(2), (RankGroups{{0, 1}, {1, 2}}));
}

TEST(RankGroups, SomebodyActsInEachForAnyWorkerAndTheWorkIsSharedOut) {
  const RankGroups groups = {{0, 4}, {4, 8}, {8, 9}, {9, 12}};
  for (int worker = 0; worker < 12; ++worker)
    EXPECT_EQ(delegate_of(groups, group_of(groups, worker), worker), worker);
  EXPECT_EQ(delegate_of(groups, 1, 2), 6);
  EXPECT_EQ(delegate_of(groups, 0, 6), 2);
  EXPECT_EQ(delegate_of(groups, 2, 6), 8);
  EXPECT_EQ(delegate_of(groups, 3, 7), 9);
  EXPECT_EQ(delegate_of(groups, 0, 11), 2);
}

std::shared_ptr<SharedMemory> memory_of(size_t bytes) {
  std::string why_not;
  auto memory = SharedMemory::make(bytes, why_not);
  EXPECT_EQ(why_not, "");
  return memory;
}

TEST(SharedMemory, IsSeenByOtherProcessesUntilItIsClosed) {
  const auto memory = memory_of(1 << 20);
  ASSERT_NE(memory, nullptr);
  for (size_t i = 0; i < memory->bytes(); i += 4095) EXPECT_EQ(memory->data()[i], std::byte{0});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 4096, 0u);
  memory->data()[7] = std::byte{42};
  const SharedMemory::Ticket ticket = memory->ticket();
  const pid_t child = ::fork();
  if (child == 0) {
    std::string why_not;
    const auto theirs = SharedMemory::open(ticket, why_not);
    if (theirs == nullptr || theirs->data()[7] != std::byte{42}) ::_exit(1);
    theirs->data()[1 << 19] = std::byte{43};
    theirs->count().store(5, std::memory_order_release);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(memory->count().load(std::memory_order_acquire), 5u);
  EXPECT_EQ(memory->data()[1 << 19], std::byte{43});
}

// What a worker of another container finds under the same numbers, or after the other one is gone.
TEST(SharedMemory, IsNotMistakenForAnother) {
  const auto memory = memory_of(4096), other = memory_of(4096);
  const pid_t child = ::fork();
  if (child == 0) {
    std::string why_not;
    const auto refused = [&](SharedMemory::Ticket ticket) {
      why_not.clear();
      return SharedMemory::open(ticket, why_not) == nullptr && !why_not.empty();
    };
    SharedMemory::Ticket ticket = memory->ticket();
    bool right = SharedMemory::open(ticket, why_not) != nullptr;
    ticket.descriptor = other->ticket().descriptor;
    right = right && refused(ticket) && why_not.find("another memory") != std::string::npos;
    ticket.descriptor = STDERR_FILENO;
    right = right && refused(ticket) && why_not.find("not the memory of a worker") != std::string::npos;
    ticket = memory->ticket();
    ticket.bytes = 1 << 20;
    right = right && refused(ticket);
    ticket = memory->ticket();
    ticket.process = 0x7fffffff;
    right = right && refused(ticket) && why_not.find("No such file") != std::string::npos;
    ::_exit(right ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(SharedMemory, SaysWhyThereIsNone) {
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 1 << 20;
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::string why_not;
  const auto memory = SharedMemory::make(1 << 20, why_not);
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(memory, nullptr);
  EXPECT_EQ(why_not, "1052672 bytes are more than ulimit -f allows");
  EXPECT_EQ(SharedMemory::make(size_t{1} << 60, why_not), nullptr) << "more than there are addresses";
  EXPECT_EQ(why_not.rfind("mmap: ", 0), 0u) << why_not;
}

class Warnings {
 public:
  Warnings() {
    set_log([this](LogLevel level, const std::string& text) {
      if (level == LogLevel::kWarning) said_ += text + '\n';
    });
  }
  ~Warnings() { set_log(nullptr); }
  const std::string& said() const { return said_; }

 private:
  std::string said_;
};

TEST(HostGroup, SeesWhatOthersHaveWrittenBeforeTheyPosted) {
  Warnings warnings;
  const std::vector<std::string> hosts = {"a", "a", "a", "b", "c", "c"};
  run_threaded(
      6,
      [](Communicator& communicator) {
        constexpr size_t kBytes = 4096;
        const int rank = communicator.rank();
        const RankGroups candidates = groups_by_host(communicator);
        const RankRange own = candidates[group_of(candidates, rank)];
        const auto mine = own.size() > 1 ? memory_of(kBytes) : nullptr;
        HostGroup group(communicator, candidates, mine, "");
        EXPECT_EQ(group.groups(), candidates);
        for (int round = 0; round < 200; ++round) {
          // Everyone writes to its own memory, then to its part of everyone's.
          for (size_t i = 0; mine != nullptr && i < kBytes; ++i) mine->data()[i] = std::byte(rank + round);
          group.post();
          group.all_posted("written")->wait();
          const size_t part = kBytes / static_cast<size_t>(own.size());
          const size_t begin = part * static_cast<size_t>(rank - own.begin);
          for (int other = own.begin; mine != nullptr && other < own.end; ++other) {
            for (size_t i = begin; i < begin + part; ++i) {
              ASSERT_EQ(group.memory(other)[i], std::byte(other + round));
              group.memory(other)[i] = std::byte(100 + rank);
            }
          }
          group.post();
          group.all_posted("read")->wait();
          for (int other = own.begin; mine != nullptr && other < own.end; ++other) {
            ASSERT_EQ(mine->data()[part * static_cast<size_t>(other - own.begin)], std::byte(100 + other));
          }
        }
      },
      20.0, false, hosts);
  EXPECT_EQ(warnings.said(), "");
}

TEST(HostGroup, StaysApartOnAHostWhereOneGetsNoMemoryAndSaysSoOnce) {
  Warnings warnings;
  const std::vector<std::string> hosts = {"a", "a", "b", "b", "b"};
  run_threaded(
      5,
      [](Communicator& communicator) {
        const bool without = communicator.rank() == 3 || communicator.rank() == 4;
        HostGroup group(communicator, groups_by_host(communicator), without ? nullptr : memory_of(64),
                        without ? "full" : "");
        EXPECT_EQ(group.groups(), (RankGroups{{0, 2}, {2, 3}, {3, 4}, {4, 5}}));
        group.post();
        group.all_posted("those that there are")->wait();
      },
      20.0, false, hosts);
  EXPECT_EQ(
      warnings.said(),
      "workers of host b exchange gradients by messages, since rank 3 shares no memory with the others: "
      "full\n");
}

}  // namespace
}  // namespace lockstep::testing
