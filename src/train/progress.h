// Progress of a run on stderr: one line that is rewritten on a terminal, plain lines a second apart
// otherwise.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "lockstep/train/metrics_log.h"

namespace lockstep {

class Progress {
 public:
  Progress(int64_t first_step, int64_t total_steps, bool enabled);

  // Shows the step when the line before is old enough (or when `last`).
  void show(const StepMetrics& metrics, bool last);
  // Ends a rewritten line so that other output starts on a line of its own.
  void finish_line();

 private:
  int64_t first_step_, total_steps_;
  bool enabled_, terminal_;
  bool open_line_ = false;
  std::chrono::steady_clock::time_point start_, shown_;
};

// How far a pass over bytes, or over so many of what has no unit, has come: a bar on a terminal, nothing
// elsewhere.
class ProgressBar {
 public:
  enum class Unit { kBytes, kNone };
  ProgressBar(std::string what, int64_t all, Unit unit = Unit::kBytes);
  void show(int64_t done);
  // Takes the bar away, so that other output can stand there.
  void clear();

 private:
  std::string what_;
  int64_t all_;
  Unit unit_;
  bool terminal_, shown_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};
// Whether what goes to stderr ends on a terminal: stderr is one, or a launch script that hands it on says so.
bool shown_on_terminal();

// "1h02m", "3m20s", "12s".
std::string format_duration(double seconds);

}  // namespace lockstep
