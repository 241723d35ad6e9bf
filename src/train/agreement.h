// Failing together: when a part of the run fails on some workers, all leave in the same way and one of them
// says why.
#pragma once

#include <functional>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/error.h"

namespace lockstep {

// A failure that every worker knows of, and why. Exactly one worker of the job has `speaks`.
class AgreedFailure : public Error {
 public:
  AgreedFailure(ErrorKind kind, const std::string& message, bool speaks)
      : Error(kind, message), speaks_(speaks) {}
  bool speaks() const { return speaks_; }

 private:
  bool speaks_;
};

// Runs `part` on every worker. When it throws on some, all throw AgreedFailure of the lowest failing rank's
// kind, kInternal of what is no Error; that rank speaks. timeout_seconds: of waits until all are through; 0:
// the communicator's.
void run_agreed(Communicator& communicator, const std::function<void()>& part, const std::string& label,
                double timeout_seconds = 0.0);

// Throws AgreedFailure where all workers have found the same failure; rank 0 speaks.
[[noreturn]] void fail_together(const Communicator& communicator, ErrorKind kind, const std::string& message);

// The text of rank `root` to everyone. Collective.
void broadcast_text(Communicator& communicator, std::string& text, const std::string& label, int root = 0);

}  // namespace lockstep
