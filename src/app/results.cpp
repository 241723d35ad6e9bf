// Results that reach their reader, or an error.
#include "lockstep/app/results.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "lockstep/core/error.h"
#include "lockstep/core/process.h"

namespace lockstep {

void flush_results() {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  if (errno == EPIPE) end_by_broken_pipe();
  fail(ErrorKind::kUsage, errno == 0 ? "stdout: cannot be written"
                                     : fmt::format("stdout: cannot be written: {}", std::strerror(errno)));
}

}  // namespace lockstep
