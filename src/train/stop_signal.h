// SIGTERM, SIGINT and SIGUSR1 as a flag that the training loop looks at between steps.
#pragma once

namespace lockstep {

// Installs the handlers; a second SIGINT ends the process at once. Restores the previous handlers when it
// goes out of scope.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  bool raised() const;
  // "SIGTERM"; "" when none was raised here.
  const char* name() const;
};

}  // namespace lockstep
