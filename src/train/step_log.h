// Steps under way and what they took: where the device was when, and the means that a line of the metrics
// tells.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/kernels/backend.h"
#include "lockstep/train/metrics_log.h"
#include "lockstep/train/model_operations.h"
#include "lockstep/train/run_plan.h"
#include "lockstep/train/step_end.h"

namespace lockstep {

class StepLog {
 public:
  // For at most `ahead` steps under way beside the one that is being issued. Backend and plan must outlive
  // the object. operations: what MFU is made of.
  StepLog(Backend& backend, const RunPlan& plan, int64_t log_every, int64_t ahead,
          const ModelOperations& operations = {});

  // A step that the host is about to issue; its number counts from 1. data_seconds: that its samples took.
  struct Step {
    int64_t number = 0;
    int64_t samples = 0;  // that count
    double data_seconds = 0.0, host_seconds = 0.0;
    double supply_seconds = 0.0;  // before `done`, of the samples of the step behind
    bool replayed = false;
    std::unique_ptr<Marker> begun, swept, exchanged, done;  // where the device was through with that
  };
  Step& begin(int64_t number, int64_t samples, double data_seconds);
  // The step that begin() gave last is issued, but for what the host may have to decide.
  void issued(double host_seconds);

  // The step that was issued last will have no report.
  void drop();

  // Steps whose reports nobody has read: those that are issued and not ended.
  size_t under_way() const { return under_way_; }
  // The number of the oldest of them.
  int64_t oldest() const;
  // Seconds that the steps which ended since the last call took of this worker by itself: waiting for samples
  // and sweeping. 0 where nobody knows, within steps that are replayed from a recording.
  double take_own_seconds() { return std::exchange(own_seconds_, 0.0); }
  // Ends the oldest. Returns a line of the metrics when one is due: every log_every steps, at the end of the
  // run, and at the step `last`. exposed_seconds: that communication was waited for since the last call.
  std::optional<StepMetrics> end(const StepReport& report, double exposed_seconds, int64_t last);

 private:
  using Clock = std::chrono::steady_clock;

  Step& step(int64_t number) { return steps_[static_cast<size_t>(number) % steps_.size()]; }

  const RunPlan& plan_;
  const int64_t log_every_;
  const ModelOperations operations_;
  std::vector<Step> steps_;  // used in turn
  int64_t newest_ = 0;       // number of the step that was begun last
  int64_t issued_ = 0;       // of the one that was issued last
  size_t under_way_ = 0;
  // Since the last line of the metrics.
  StepTimes times_;
  double own_seconds_ = 0.0;
  int64_t interval_steps_ = 0, interval_samples_ = 0;
  Clock::time_point interval_start_ = Clock::now();
};

}  // namespace lockstep
