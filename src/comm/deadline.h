// An end to waiting inside a library: MPI's own start and end know no timeouts.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace lockstep {

class Deadline {
 public:
  // What to say; empty: somebody else speaks. last: nobody has, for a while.
  using Message = std::function<std::string(bool last)>;
  static Message saying(std::string text) {
    return [said = std::move(text)](bool) { return said; };
  }

  // Where the object still lives after `seconds` in which the process was not stopped, its thread says what
  // `message` gives (log_error; log_warning where exit_code is that of a run that has reached its end) and
  // ends the process: by end(exit_code), which need not return, then by std::_Exit, which runs no
  // destructors, since what the other thread waits in may hold any lock. phase: what neighbours see the
  // thread wait in (neighbours.h).
  Deadline(double seconds, int exit_code, std::string phase, Message message,
           std::function<void(int)> end = {});
  ~Deadline();
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

 private:
  // Whether the object went before the time was over.
  bool kept(double seconds);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;  // last: it uses the others
};

std::string host_name();

// "rank 3 on host node7", as far as the launcher's environment tells before MPI has started.
std::string who_waits();

}  // namespace lockstep
