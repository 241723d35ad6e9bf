// Reading the counters of the kernel, which are small text files.
#include "lockstep/core/available_memory.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>

#include "lockstep/core/control_groups.h"

namespace lockstep {

namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// The number after `name` at the beginning of a line: "MemAvailable:   1234 kB", "inactive_file 1234".
std::optional<int64_t> named_number(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    int64_t number = 0;
    if (words >> word && word == name && words >> number) return number;
  }
  return std::nullopt;
}

// A file that holds one number; "max" is none.
std::optional<int64_t> only_number(const std::string& path) {
  std::ifstream file(path);
  int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

struct Counters {
  const char *limit, *usage, *inactive, *active;
};
constexpr Counters kVersion1{"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file",
                             "total_active_file"};
constexpr Counters kVersion2{"/memory.max", "/memory.current", "inactive_file", "active_file"};

// What a group leaves.
int64_t left_by(const std::string& folder, const Counters& names) {
  const std::optional<int64_t> limit = only_number(folder + names.limit),
                               usage = only_number(folder + names.usage);
  if (!limit || !usage) return kUnknown;
  const std::string details = folder + "/memory.stat";
  const int64_t files =
      named_number(details, names.inactive).value_or(0) + named_number(details, names.active).value_or(0);
  return std::max<int64_t>(*limit - std::max<int64_t>(*usage - files, 0), 0);
}

}  // namespace

AvailableMemory::AvailableMemory(std::string proc, std::string cgroups, int64_t address_space)
    : proc_(std::move(proc)), cgroups_(std::move(cgroups)), address_space_(address_space) {}

int64_t AvailableMemory::bytes() const {
  return std::min({machine(), control_groups(), addresses()});
}

int64_t AvailableMemory::machine() const {
  const std::optional<int64_t> kibibytes = named_number(proc_ + "/meminfo", "MemAvailable:");
  return kibibytes ? *kibibytes * 1024 : kUnknown;
}

std::string AvailableMemory::groups() const {
  std::ifstream file(proc_ + "/self/cgroup");
  // In a namespace of its own each container's group is called "/".
  std::error_code missing;
  const std::filesystem::path space = std::filesystem::read_symlink(proc_ + "/self/ns/cgroup", missing);
  return space.string() + "\n" + std::string(std::istreambuf_iterator<char>(file), {});
}

int64_t AvailableMemory::control_groups() const {
  int64_t least = kUnknown;
  for (const ControlGroup& group : lockstep::control_groups("memory", proc_, cgroups_))
    least = std::min(least, left_by(group.folder, group.version == 2 ? kVersion2 : kVersion1));
  return least;
}

int64_t AvailableMemory::addresses() const {
  int64_t most = address_space_;
  if (most < 0) {
    rlimit limit{};
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnknown;
    most = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, static_cast<rlim_t>(kUnknown)));
  }
  const std::optional<int64_t> pages = only_number(proc_ + "/self/statm");
  return pages ? std::max<int64_t>(most - *pages * sysconf(_SC_PAGESIZE), 0) : kUnknown;
}

bool fits_memory(int64_t bytes) {
  constexpr int64_t kSmall = 1 << 20;
  return bytes < kSmall || bytes <= AvailableMemory().bytes();
}

void require_memory(const std::string& what, int64_t bytes, ErrorKind kind) {
  if (fits_memory(bytes)) return;
  fail(kind,
       fmt::format("{}: takes {} bytes of memory: {} are available", what, bytes, AvailableMemory().bytes()));
}

}  // namespace lockstep
