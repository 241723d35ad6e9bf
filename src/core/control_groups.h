// The control groups that this process is in, which limit what it may use.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

struct ControlGroup {
  std::string folder;  // of its files, which need not be there
  int version;         // of the files: 1 or 2
};

// Those of a controller ("cpu", "memory"), each before the one around it: a limit of any of them counts. In a
// container the path may be one that only the host sees, and the group's own files stand at the root. `proc`
// and `cgroups` are where the system tells; tests give folders of their own.
std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& proc = "/proc",
                                         const std::string& cgroups = "/sys/fs/cgroup");

// Seconds, added up over cores, in which threads of this process's groups have been kept from running because
// a quota of processor time was used up.
double throttled_seconds(const std::string& proc = "/proc", const std::string& cgroups = "/sys/fs/cgroup");

// How much that has grown, which is looked for once a second at most.
class ThrottleMeter {
 public:
  // Since the last call; 0 where it has not been looked for.
  double take() {
    const Clock::time_point now = Clock::now();
    if (now - looked_ < std::chrono::seconds(1)) return 0.0;
    looked_ = now;
    const double all = throttled_seconds();
    return std::max(0.0, all - std::exchange(known_, all));
  }

 private:
  using Clock = std::chrono::steady_clock;

  Clock::time_point looked_ = Clock::now();
  double known_ = throttled_seconds();
};

}  // namespace lockstep
