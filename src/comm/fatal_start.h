// MPI's own start, which does not return an error but ends the process: Open MPI with a page of text and exit
// code 1.
#pragma once

namespace lockstep {

// While it lives, this process is not ended by a library without saying which phase has failed, in one line
// of one worker of the host, and with the exit code of what is at fault: usage where all workers are on this
// host, communication where there is a network between them, which may yet come. One at a time, by the thread
// that makes it. phase: at most 15 characters.
class FatalStart {
 public:
  explicit FatalStart(const char* phase);
  ~FatalStart();
  FatalStart(const FatalStart&) = delete;
  FatalStart& operator=(const FatalStart&) = delete;
};

}  // namespace lockstep
