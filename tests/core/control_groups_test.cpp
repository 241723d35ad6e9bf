// Control groups of both versions, from the innermost one on, and what their quotas have kept from running.
#include "lockstep/core/control_groups.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "hdf5/scratch_directory.h"

namespace lockstep {
namespace {

class ControlGroups : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(directory_.file(name)).parent_path());
    std::ofstream(directory_.file(name)) << text;
  }
  std::vector<std::string> folders(const std::string& controller) const {
    std::vector<std::string> found;
    for (const ControlGroup& group :
         control_groups(controller, directory_.file("proc"), directory_.file("groups")))
      found.push_back(std::to_string(group.version) + group.folder.substr(directory_.file("groups").size()));
    return found;
  }
  double throttled() const { return throttled_seconds(directory_.file("proc"), directory_.file("groups")); }

  testing::ScratchDirectory directory_;
};

TEST_F(ControlGroups, AreGivenFromTheInnermostOn) {
  EXPECT_TRUE(folders("cpu").empty());
  write("proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/a/b\ngarbage\n0::/outer/inner\n::\n");
  EXPECT_EQ(folders("cpu"),
            (std::vector<std::string>{"1/cpu/a/b", "1/cpu/a", "1/cpu", "2/outer/inner", "2/outer", "2"}));
  EXPECT_EQ(folders("memory"),
            (std::vector<std::string>{"1/memory/m", "1/memory", "2/outer/inner", "2/outer", "2"}));
}

TEST_F(ControlGroups, TellWhatTheirQuotasHaveKeptFromRunning) {
  write("proc/self/cgroup", "4:cpu,cpuacct:/a\n0::/b\n");
  EXPECT_EQ(throttled(), 0.0);
  write("groups/cpu/a/cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n");
  EXPECT_EQ(throttled(), 1.5);
  write("groups/b/cpu.stat", "usage_usec 7000000\nnr_throttled 3\nthrottled_usec 250000\n");
  EXPECT_EQ(throttled(), 1.75);
}

}  // namespace
}  // namespace lockstep
