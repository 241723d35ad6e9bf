// Memory that is left: by the machine's counters, those of control groups of both versions, and the address
// space.
#include "lockstep/core/available_memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

class MemoryLeft : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(directory_.file(name)).parent_path());
    std::ofstream(directory_.file(name)) << text;
  }
  int64_t left(int64_t address_space = kUnknown) const {
    return AvailableMemory(directory_.file("proc"), directory_.file("groups"), address_space).bytes();
  }

  testing::ScratchDirectory directory_;
};

TEST_F(MemoryLeft, IsUnknownWhereTheSystemSaysNothing) {
  EXPECT_EQ(left(), kUnknown);
  write("proc/meminfo", "MemTotal: 5 kB\n");
  write("proc/self/cgroup", "garbage\n0::/\n7:memory:/a/b\n::\n");
  EXPECT_EQ(left(), kUnknown);
}

TEST_F(MemoryLeft, IsWhatTheMachineHas) {
  write("proc/meminfo", "MemTotal:       9000 kB\nMemFree:        1000 kB\nMemAvailable:    3000 kB\n");
  EXPECT_EQ(left(), 3000 * 1024);
}

TEST_F(MemoryLeft, IsWhatTheTightestGroupOfVersion2Leaves) {
  write("proc/meminfo", "MemAvailable:    3000 kB\n");
  write("proc/self/cgroup", "0::/outer/inner\n");
  write("groups/memory.max", "max\n");
  write("groups/outer/memory.max", "1000000\n");
  write("groups/outer/memory.current", "300000\n");
  write("groups/outer/inner/memory.max", "max\n");
  write("groups/outer/inner/memory.current", "200000\n");
  EXPECT_EQ(left(), 700000);
  write("groups/outer/memory.stat", "anon 100000\ninactive_file 150000\nactive_file 50000\n");
  EXPECT_EQ(left(), 900000) << "pages of files make room";
  write("groups/outer/inner/memory.max", "500000\n");
  EXPECT_EQ(left(), 300000);
  write("groups/outer/inner/memory.current", "600000\n");
  EXPECT_EQ(left(), 0) << "a limit that was lowered below what is used";
}

TEST_F(MemoryLeft, IsWhatAGroupOfVersion1Leaves) {
  write("proc/self/cgroup", "5:cpu,memory:/docker/1234\n0::/\n");
  write("groups/memory/memory.limit_in_bytes", "800000\n");  // in a container: the path is the host's
  write("groups/memory/memory.usage_in_bytes", "500000\n");
  write("groups/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 40000\ntotal_active_file 60000\n");
  EXPECT_EQ(left(), 400000);
  write("groups/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_GT(left(), int64_t{1} << 60);
}

TEST_F(MemoryLeft, IsSharedInAGroupOfOneNamespace) {
  write("proc/self/cgroup", "0::/\n");
  const auto groups_in = [&](const char* space) {
    const std::string link = directory_.file("proc/self/ns/cgroup");
    std::filesystem::create_directories(std::filesystem::path(link).parent_path());
    std::filesystem::remove(link);
    std::filesystem::create_symlink(space, link);
    return AvailableMemory(directory_.file("proc"), directory_.file("groups"), kUnknown).groups();
  };
  EXPECT_EQ(groups_in("cgroup:[1]"), groups_in("cgroup:[1]"));
  EXPECT_NE(groups_in("cgroup:[1]"), groups_in("cgroup:[2]")) << "each container calls its own group /";
}

TEST_F(MemoryLeft, IsWhatTheAddressSpaceHasLeft) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  write("proc/self/statm", "100 50 20 1 0 30 0\n");
  EXPECT_EQ(left(150 * page), 50 * page);
  EXPECT_EQ(left(50 * page), 0);
}

TEST_F(MemoryLeft, OfThisProcessIsKnownAndBelowTheMachines) {
  const int64_t bytes = AvailableMemory().bytes();
  EXPECT_GT(bytes, 0);
  EXPECT_LT(bytes, int64_t{1} << 50);
}

}  // namespace
}  // namespace lockstep
