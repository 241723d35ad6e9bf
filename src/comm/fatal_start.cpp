// The ways out that a library takes, in place of theirs: PMIx_Abort, by which it has the launcher end the job
// (and which decides about the exit code of mpirun), _exit where it could not reach the launcher, and exit.
#include "lockstep/comm/fatal_start.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "lockstep/comm/deadline.h"
#include "lockstep/comm/neighbours.h"
#include "lockstep/core/error.h"
#include "lockstep/core/log.h"

namespace lockstep {

namespace {

std::atomic<const char*> phase_under_way{nullptr};
std::atomic<pid_t> process_of_phase{0};  // not one that MPI has started meanwhile
std::atomic<int> code_of_failure{0};     // once it has been said: more than one way out may follow

// What has been chosen that MPI may have stumbled over: "chosen are NAME=VALUE, ...: ", what the user has
// apart from what the launch scripts have (launch/run_to_end.sh says which); empty where nothing is.
std::string choices() {
  const char* const defaults = std::getenv("OMPI_MCA_lockstep_defaults");
  const std::string of_scripts = fmt::format(",{},", defaults != nullptr ? defaults : "");
  std::string by_user, by_scripts;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable = *entry;
    for (const std::string_view prefix :
         {"OMPI_MCA_btl=", "OMPI_MCA_btl_tcp_if_", "OMPI_MCA_pml=", "OMPI_MCA_mtl="}) {
      if (!variable.starts_with(prefix)) continue;
      constexpr size_t kPrefix = std::string_view("OMPI_MCA_").size();
      const std::string_view name = variable.substr(kPrefix, variable.find('=') - kPrefix);
      std::string& all =
          of_scripts.find(fmt::format(",{},", name)) != std::string::npos ? by_scripts : by_user;
      all += fmt::format("{}{}", all.empty() ? "" : ", ", variable);
    }
  }
  if (!by_user.empty()) by_user = "chosen are " + by_user + ": ";
  if (!by_scripts.empty()) by_scripts = "the launch script has chosen " + by_scripts + ": ";
  return by_user + by_scripts;
}

// "/tmp has 0 bytes left", of where Open MPI keeps files while it starts; "" where there is room.
std::string lack_of_room() {
  constexpr uint64_t kFiles = 1 << 20;
  std::vector<const char*> directories;
  for (const char* name : {"PMIX_SERVER_TMPDIR", "OMPI_MCA_orte_tmpdir_base", "TMPDIR"}) {
    if (const char* const directory = std::getenv(name)) directories.push_back(directory);
  }
  if (directories.empty()) directories.push_back("/tmp");
  directories.push_back("/dev/shm");
  for (const char* directory : directories) {
    struct statvfs status {};
    if (::statvfs(directory, &status) != 0 || status.f_blocks == 0) continue;
    const uint64_t left = uint64_t{status.f_bavail} * status.f_frsize;
    if (left < kFiles) return fmt::format("{} has {} bytes left", directory, left);
    if (status.f_files > 0 && status.f_favail == 0) return fmt::format("{} takes no more files", directory);
  }
  return "";
}

bool may_say_failure() {
  return process_of_phase == ::getpid() && (phase_under_way != nullptr || code_of_failure != 0);
}

// Whether code at this address is of a library that MPI has brought, not of the program or of this library: a
// program's signal handler may leave on its own account.
bool is_of_mpi(const void* address) {
  const auto begin_of = [](const void* of) {
    Dl_info info = {};
    return ::dladdr(of, &info) != 0 ? info.dli_fbase : nullptr;
  };
  const void* const begin = begin_of(address);
  return begin != begin_of(&process_of_phase) &&
         begin != begin_of(reinterpret_cast<void*>(::getauxval(AT_ENTRY)));
}

// What follows is the end. 0 where no phase is under way; else the exit code, when it has been said.
int say_failure() {
  if (!may_say_failure()) return 0;
  const char* phase = phase_under_way.exchange(nullptr);
  if (phase == nullptr) return code_of_failure;
  // Of workers that fail at the same time the lowest speaks; whoever comes a moment later finds that somebody
  // has. Those that do not speak wait for the one that does: the first to go takes all with it.
  constexpr std::chrono::milliseconds kOthersCome{200};
  constexpr std::chrono::seconds kAfterSpeaking{2};
  const std::string failed = "start failed", told = "failure told";
  announce_phase(failed);
  std::this_thread::sleep_for(kOthersCome);
  const std::string full = lack_of_room();
  const ErrorKind kind = !full.empty()                 ? ErrorKind::kCheckpoint
                         : launched_on_several_hosts() ? ErrorKind::kCommunication
                                                       : ErrorKind::kUsage;
  // In this order: who is no longer the one is the other already.
  if (look_at_neighbours(failed).speaks && look_at_neighbours(told).speaks) {
    announce_phase(told);
    const std::string remedy =
        !full.empty() ? choices() + full + ": make room there" +
                            (full.starts_with("/dev/shm") ? "" : ", or choose another directory with TMPDIR")
                      : choices() +
                            "where it is a transport or an interface, name those that this host has (mpirun "
                            "--mca btl self,vader,tcp --mca btl_tcp_if_include eth0)";
    log_error(fmt::format("{}: {}: failed, MPI itself says why; {}", who_waits(), phase, remedy));
  }
  std::this_thread::sleep_for(kAfterSpeaking);
  code_of_failure = exit_code(kind);
  return code_of_failure;
}

}  // namespace

FatalStart::FatalStart(const char* phase) {
  [[maybe_unused]] static const int registered = std::atexit([] {
    if (const int code = say_failure(); code != 0) std::_Exit(code);
  });
  process_of_phase = ::getpid();
  phase_under_way = phase;
}

FatalStart::~FatalStart() {
  phase_under_way = nullptr;
}

}  // namespace lockstep

extern "C" {

// Of PMIx's standard.
int PMIx_Abort(int status, const char* message, void* processes, size_t count) {
  const int code = lockstep::say_failure();
  using Abort = int(int, const char*, void*, size_t);
  if (auto* const next = reinterpret_cast<Abort*>(::dlsym(RTLD_NEXT, "PMIx_Abort")))
    return next(code != 0 ? code : status, message, processes, count);
  std::_Exit(code != 0 ? code : status);
}

void _exit(int status) {
  const bool of_mpi = lockstep::may_say_failure() && lockstep::is_of_mpi(__builtin_return_address(0));
  const int code = of_mpi ? lockstep::say_failure() : 0;
  std::_Exit(code != 0 ? code : status);
}

}  // extern "C"
