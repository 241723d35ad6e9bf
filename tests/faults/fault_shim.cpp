// Preloaded into a worker, makes system and MPI calls go wrong on order: LOCKSTEP_FAULTS holds rules,
// separated by blanks,
//   CALL[:NAME][#COUNT][@RANK]=ACTION
// NAME: the end of the path that the call concerns; COUNT: the COUNTth such call only (of this rule, from 1);
// RANK: on that MPI rank only. ACTION: an error (EIO, ENOSPC, ...), "sleep=SECONDS" before the call, "hang",
// "stop" (SIGSTOP), or "kill". CALLs: open, write (and pwrite), read (pread), fsync, rename (NAME: of the
// target), truncate, remove, statvfs (any error: no room is left), MPI_Init, MPI_Comm_dup, MPI_Comm_split,
// MPI_Isend, MPI_Ibarrier, MPI_Finalize; "any": each of those that concern files. LOCKSTEP_FAULTS_UNDER,
// where it is set: the beginning of the paths that rules are about. LOCKSTEP_HOST: what the worker takes for
// the name of its host. LOCKSTEP_CLOCK: the seconds that its clock is ahead.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Rule {
  std::string call, name, rank, action;
  int count = 0;  // 0: every one
  std::atomic<int> seen = 0;
};

std::vector<Rule>& rules() {
  // Never destroyed: calls are made until the very end of the process.
  static auto* const all = [] {
    std::vector<std::string> texts;
    std::istringstream words(std::getenv("LOCKSTEP_FAULTS") != nullptr ? std::getenv("LOCKSTEP_FAULTS") : "");
    for (std::string word; words >> word;) texts.push_back(word);
    auto* parsed = new std::vector<Rule>(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      Rule& rule = (*parsed)[i];
      std::string text = texts[i];
      const auto cut = [&](char mark) {
        const size_t at = text.rfind(mark);
        if (at == std::string::npos) return std::string();
        std::string rest = text.substr(at + 1);
        text.resize(at);
        return rest;
      };
      const size_t equals = text.find('=');
      rule.action = text.substr(equals + 1);
      text.resize(equals);
      rule.rank = cut('@');
      const std::string count = cut('#');
      rule.count = count.empty() ? 0 : std::stoi(count);
      rule.name = cut(':');
      rule.call = text;
    }
    return parsed;
  }();
  return *all;
}

const std::string& folder() {
  static const auto* const under = new std::string(
      std::getenv("LOCKSTEP_FAULTS_UNDER") != nullptr ? std::getenv("LOCKSTEP_FAULTS_UNDER") : "");
  return *under;
}

int error_of(const std::string& action) {
  static const std::map<std::string, int> kErrors = {
      {"EIO", EIO},       {"ENOMEM", ENOMEM}, {"EMFILE", EMFILE}, {"ESTALE", ESTALE},
      {"EACCES", EACCES}, {"ENOSPC", ENOSPC}, {"EROFS", EROFS}};
  const auto found = kErrors.find(action);
  if (found == kErrors.end()) std::abort();
  return found->second;
}

// The error that the call is to fail with; 0: none.
int fault(const char* call, const std::string& path = "") {
  const int before = errno;
  for (Rule& rule : rules()) {
    const bool any = rule.call == "any" && !path.empty();
    if ((rule.call != call && !any) || !path.ends_with(rule.name)) continue;
    if (!path.empty() && !path.starts_with(folder())) continue;
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    if (!rule.rank.empty() && (rank == nullptr || rule.rank != rank)) continue;
    const int number = ++rule.seen;
    if (rule.count != 0 && rule.count != number) continue;
    if (rule.action == "kill") ::kill(::getpid(), SIGKILL);
    if (rule.action == "stop") ::kill(::getpid(), SIGSTOP);
    if (rule.action == "hang") {
      while (true) ::pause();
    }
    if (rule.action.starts_with("sleep=")) {
      ::usleep(static_cast<useconds_t>(1e6 * std::stod(rule.action.substr(6))));
      continue;
    }
    if (rule.action != "stop") return error_of(rule.action);
  }
  errno = before;
  return 0;
}

std::string path_of(int descriptor) {
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const ssize_t size = ::readlink(link.c_str(), path, sizeof path);
  return size > 0 ? std::string(path, static_cast<size_t>(size)) : std::string();
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

int open_with(const char* symbol, const char* path, int flags, mode_t mode) {
  if (const int error = fault("open", path)) {
    errno = error;
    return -1;
  }
  return next<int(const char*, int, ...)>(symbol)(path, flags, mode);
}

}  // namespace

#define FAIL_IF(call, path)                  \
  if (const int error = fault(call, path)) { \
    errno = error;                           \
    return -1;                               \
  }

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
  va_end(arguments);
  return open_with("open", path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
  va_end(arguments);
  return open_with("open64", path, flags, mode);
}

ssize_t write(int descriptor, const void* bytes, size_t count) {
  FAIL_IF("write", path_of(descriptor))
  return next<ssize_t(int, const void*, size_t)>("write")(descriptor, bytes, count);
}

ssize_t pwrite(int descriptor, const void* bytes, size_t count, off_t offset) {
  FAIL_IF("write", path_of(descriptor))
  return next<ssize_t(int, const void*, size_t, off_t)>("pwrite")(descriptor, bytes, count, offset);
}

ssize_t pread(int descriptor, void* bytes, size_t count, off_t offset) {
  FAIL_IF("read", path_of(descriptor))
  return next<ssize_t(int, void*, size_t, off_t)>("pread")(descriptor, bytes, count, offset);
}

int fsync(int descriptor) {
  FAIL_IF("fsync", path_of(descriptor))
  return next<int(int)>("fsync")(descriptor);
}

int rename(const char* from, const char* to) {
  FAIL_IF("rename", to)
  return next<int(const char*, const char*)>("rename")(from, to);
}

int ftruncate(int descriptor, off_t size) {
  FAIL_IF("truncate", path_of(descriptor))
  return next<int(int, off_t)>("ftruncate")(descriptor, size);
}

int remove(const char* path) {
  FAIL_IF("remove", path)
  return next<int(const char*)>("remove")(path);
}

int unlink(const char* path) {
  FAIL_IF("remove", path)
  return next<int(const char*)>("unlink")(path);
}

int statvfs(const char* path, struct statvfs* status) {
  const int result = next<int(const char*, struct statvfs*)>("statvfs")(path, status);
  if (result == 0 && fault("statvfs", path) != 0) status->f_bavail = 0;
  return result;
}

int gethostname(char* name, size_t size) {
  const char* given = std::getenv("LOCKSTEP_HOST");
  if (given == nullptr) return next<int(char*, size_t)>("gethostname")(name, size);
  std::snprintf(name, size, "%s", given);
  return 0;
}

int clock_gettime(clockid_t clock, struct timespec* now) {
  static auto* const system = next<int(clockid_t, struct timespec*)>("clock_gettime");
  const int result = system(clock, now);
  const char* ahead = clock == CLOCK_REALTIME ? std::getenv("LOCKSTEP_CLOCK") : nullptr;
  if (ahead != nullptr) now->tv_sec += std::atol(ahead);
  return result;
}

int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  fault("MPI_Init");
  return next<int(int*, char***, int, int*)>("PMPI_Init_thread")(argc, argv, required, provided);
}

int MPI_Comm_dup(MPI_Comm communicator, MPI_Comm* copy) {
  fault("MPI_Comm_dup");
  return next<int(MPI_Comm, MPI_Comm*)>("PMPI_Comm_dup")(communicator, copy);
}

int MPI_Comm_split_type(MPI_Comm communicator, int type, int key, MPI_Info info, MPI_Comm* part) {
  fault("MPI_Comm_split");
  return next<int(MPI_Comm, int, int, MPI_Info, MPI_Comm*)>("PMPI_Comm_split_type")(communicator, type, key,
                                                                                    info, part);
}

int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm communicator,
              MPI_Request* request) {
  fault("MPI_Isend");
  return next<int(const void*, int, MPI_Datatype, int, int, MPI_Comm, MPI_Request*)>("PMPI_Isend")(
      data, count, type, to, tag, communicator, request);
}

int MPI_Ibarrier(MPI_Comm communicator, MPI_Request* request) {
  fault("MPI_Ibarrier");
  return next<int(MPI_Comm, MPI_Request*)>("PMPI_Ibarrier")(communicator, request);
}

int MPI_Finalize(void) {
  fault("MPI_Finalize");
  return next<int(void)>("PMPI_Finalize")();
}

}  // extern "C"
