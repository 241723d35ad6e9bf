// Reading /proc/self/cgroup, and counters.
#include "lockstep/core/control_groups.h"

#include <fstream>

namespace lockstep {

std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& proc,
                                         const std::string& cgroups) {
  std::vector<ControlGroup> found;
  std::ifstream groups(proc + "/self/cgroup");
  // "0::/a/b" of version 2; "4:cpu,cpuacct:/a/b" of version 1, whose controllers may share a line.
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = line.starts_with("0::");
    if (!unified && controllers.find("," + controller + ",") == std::string::npos) continue;
    const std::string root = unified ? cgroups : cgroups + "/" + controller;
    for (std::string group = line.substr(second + 1);;) {
      while (group.ends_with('/')) group.pop_back();
      found.push_back({root + group, unified ? 2 : 1});
      if (group.empty()) break;
      group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
    }
  }
  return found;
}

double throttled_seconds(const std::string& proc, const std::string& cgroups) {
  double seconds = 0.0;
  for (const ControlGroup& group : control_groups("cpu", proc, cgroups)) {
    std::ifstream file(group.folder + "/cpu.stat");
    std::string name;
    for (double number = 0.0; file >> name >> number;) {
      if (name == "throttled_usec") seconds += number * 1e-6;
      if (name == "throttled_time") seconds += number * 1e-9;
    }
  }
  return seconds;
}

}  // namespace lockstep
