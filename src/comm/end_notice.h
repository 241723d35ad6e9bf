// The launcher's word that it is about to end the job, for a worker that waits for others who will not come.
//
// Open MPI 4 ends a job that has lost a worker by SIGCONT, SIGTERM and SIGKILL to the others, as many seconds
// apart as odls_base_sigkill_timeout says (1). The first of them, where the daemon that started this process
// has sent it, is a notice that nobody else gives. launch/supervise.sh has SIGUSR2 sent to all before it ends
// a job whose host is lost.
#pragma once

#include <chrono>

namespace lockstep {

// Between the last act of a worker that ends the job and that end, which ends the others: they have something
// to write, and so has who was left to write for it.
inline constexpr std::chrono::milliseconds kForTheOthers{300};

// Notices the signals while it lives; one at a time.
class EndNotice {
 public:
  EndNotice();
  ~EndNotice();
  EndNotice(const EndNotice&) = delete;
  EndNotice& operator=(const EndNotice&) = delete;

  bool given() const;
};

}  // namespace lockstep
