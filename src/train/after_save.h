// A command of the user's for every checkpoint that is in place: to copy it to another host, or to an object
// store.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace lockstep {

// Commands run beside the training, one after the other, each in a process group of its own (Ctrl-C is not
// for them). What fails is warned of and no more: the checkpoint is there. What a command writes is copied to
// stderr while it is waited for; of one that is left to itself, and of what another leaves in the background,
// it is thrown away, so that nothing of theirs keeps mpirun from ending. Where this process is killed, their
// next write fails (SIGPIPE).
class AfterSave {
 public:
  // `command`, for /bin/sh, has {} where the path of the file stands, quoted. `seconds`: that the end waits
  // for what is still running then. "": does nothing.
  AfterSave(std::string command, double seconds);
  // As finish(); by an exception, without waiting.
  ~AfterSave();
  AfterSave(const AfterSave&) = delete;
  AfterSave& operator=(const AfterSave&) = delete;

  // The file is in place. From any thread; returns at once.
  void saved(const std::string& path);
  // Waits for all commands, until `gives_up` or the seconds are over: the one that is running then is left to
  // itself, those behind it do not run, and both are warned of.
  void finish(const std::function<bool()>& gives_up = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
