// The signals that ask a run to stop, as a flag that the training loop looks at between steps.
#pragma once

namespace lockstep {

// Whether the process belongs to somebody's terminal.
bool at_terminal();

// Installs handlers for SIGTERM, SIGINT, SIGUSR1 and, unless the process was started to ignore it (nohup),
// SIGHUP. However many arrive, they ask for the same: to save and to leave. Only a second SIGINT from a
// terminal, where somebody wants that, ends the process at once. Restores the previous handlers when it goes
// out of scope; a program keeps it until its end, since a signal may also come late.
class StopSignal {
 public:
  explicit StopSignal(bool second_interrupt_ends = at_terminal());
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  bool raised() const;
  // "SIGTERM", of the first that was raised; "" when none was raised here.
  const char* name() const;
};

}  // namespace lockstep
