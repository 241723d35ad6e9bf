// Steps under way and their reports, read oldest first: what each becomes in the metrics, on the terminal and
// for the program.
#pragma once

#include <cstdint>

#include "lockstep/train/prepared_run.h"
#include "lockstep/train/progress.h"
#include "lockstep/train/step_log.h"
#include "lockstep/train/straggler_watch.h"

namespace lockstep {

class StepReports {
 public:
  // Behind StepEnd::start(). Both must outlive the object.
  StepReports(PreparedRun& run, StragglerWatch& stragglers);

  // Until no more than `left` steps are under way. Of a divergence all workers fail together.
  void read(size_t left);
  // The run ends with this step, before its time: there is a line of it.
  void end_at(int64_t step) { stopping_at_ = step; }

  StepLog& log() { return log_; }
  // Other output follows.
  void finish_line() { progress_.finish_line(); }

 private:
  // That a minimizer found nothing: once.
  void warn_of_failure(int64_t step);

  PreparedRun& run_;
  StragglerWatch& stragglers_;
  StepLog log_;
  Progress progress_;
  int64_t stopping_at_ = 0;  // 0: none
  bool told_failure_ = false;
};

}  // namespace lockstep
