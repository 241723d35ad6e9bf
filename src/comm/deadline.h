// An end to waiting inside a library: MPI's own start and end know no timeouts.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace lockstep {

class Deadline {
 public:
  // Where the object still lives after `seconds`, its thread says `message` (log_error; log_warning where
  // exit_code is that of a run that has reached its end) and ends the process: by end(exit_code), which need
  // not return, then by std::_Exit, which runs no destructors, since what the other thread waits in may hold
  // any lock.
  Deadline(double seconds, int exit_code, std::string message, std::function<void(int)> end = {});
  ~Deadline();
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;  // last: it uses the others
};

// "rank 3 on host node7", as far as the launcher's environment tells before MPI has started.
std::string who_waits();

}  // namespace lockstep
