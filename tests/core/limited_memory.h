// What becomes of a process that has little memory, as far as addresses tell.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <functional>
#include <new>
#include <string>

#include "lockstep/core/error.h"

namespace lockstep::testing {

// Runs `part` in a process that may take so many MiB more; what it says, or the Error that it throws, which
// is to be of this kind. Not under sanitizers, whose own memory does not fit below a limit.
inline std::string within_mebibytes(int64_t mebibytes, const std::function<std::string()>& part,
                                    ErrorKind kind = ErrorKind::kUsage) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const auto most = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (mebibytes << 20));
    const rlimit limit{most, most};
    setrlimit(RLIMIT_AS, &limit);
    std::string said;
    try {
      said = part();
    } catch (const Error& error) {
      said = error.kind() == kind ? error.what() : "wrong kind";
    } catch (const std::bad_alloc&) {
      said = "bad_alloc";
    }
    _exit(write(ends[1], said.data(), said.size()) < 0 ? 1 : 0);
  }
  close(ends[1]);
  std::string said(4096, '\0');
  said.resize(static_cast<size_t>(std::max<ssize_t>(read(ends[0], said.data(), said.size()), 0)));
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return said;
}

}  // namespace lockstep::testing
