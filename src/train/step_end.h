// The end of a training step: from the summed gradient to the update, or to the reason why there is none.
//
// Three forms. Where the numbers of an update depend on nothing but its number (Optimizer::prearranged), the
// device decides by itself and the host issues steps ahead of it (DeviceStepEnd). Where the host has to look
// first (clipping by value, line of outliers, optimizers that read norms), it waits for each report and then
// issues the update (HostStepEnd). Where the optimizer looks at the objective by itself, a step is one call,
// minimize() (train/minimizer_step.h). On the way of the other steps:
//
//   - end.begin(): what has to be there before the sweeps
//   - sweeps and exchange, with end.cotangent()
//   - end.issue(): verdict and, where the device decides, update; may be recorded with the sweeps
//   - end.post(step): asks for the report
//   - end.decide(step): the host reads it and updates
//   - end.report(step): oldest first, at most ahead() steps later
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "lockstep/core/error.h"
#include "lockstep/optim/loss_scaler.h"
#include "lockstep/optim/schedule.h"
#include "lockstep/train/gradient_pass.h"
#include "lockstep/train/metrics_log.h"
#include "lockstep/train/outlier_guard.h"
#include "lockstep/train/run_state.h"
#include "lockstep/train/step_control.h"

namespace lockstep {

// The run cannot go on: the message says what was found at which step.
class Divergence : public Error {
 public:
  explicit Divergence(const std::string& message) : Error(ErrorKind::kNumeric, message) {}
};

struct StepReport {
  double loss = 0.0;           // of the global batch, regularization included; NaN: nothing in it counts
  double gradient_norm = 0.0;  // before clipping
  double loss_scale = 1.0;     // that the step was computed with
  double learning_rate = 0.0;
  std::optional<MinimizerStep> minimizer = {};  // where one took the step
};

class StepEnd : public Checkpointed {
 public:
  // What a step's end works on. Everything must outlive it.
  struct Parts {
    Replica& replica;
    GradientPass& pass;
    Schedule& schedule;
    const RunSettings& settings;
    int64_t micro_batches;
    bool same_batch = false;  // RunPlan::same_batch
  };

  // How many steps may be under way whose reports nobody has read.
  int64_t ahead() const { return control_.ahead(); }
  // Before the first step with number `step`, counted from 0.
  void start(int64_t step);
  // under_way: steps whose reports nobody has read.
  virtual void begin(int64_t under_way) = 0;
  // dL/d(losses) of a micro-batch: the loss scale everywhere.
  Tensor cotangent(const Shape& shape) { return control_.cotangent(shape); }
  // Everything behind the exchange that the host has no say in. May be recorded with the sweeps.
  virtual void issue() = 0;
  void post(int64_t step) { control_.post(step); }
  // Throws Divergence, and AgreedFailure of the model in sweeps that the optimizer asks for, which is to be
  // taken back.
  virtual void decide(int64_t step) = 0;
  // Instead of post() and decide(), where the sums of a step were spoilt (GradientPass::issue), so that
  // nothing has changed, and where decide() has failed: the state is that before it. step: its number,
  // counted from 0. Nothing else may be under way.
  virtual void take_back(int64_t step) { start(step); }
  // Throws Divergence.
  virtual StepReport report(int64_t step) = 0;

  // Where the optimizer minimizes by itself, a step is this alone, between set_batch() and report(). `stops`
  // is asked before every evaluation, on all workers; where it is true the step has not been taken, nothing
  // has changed, and the call returns false. Throws Divergence, and AgreedFailure of the model, which has not
  // changed anything either.
  virtual bool minimizes() const { return false; }
  virtual bool minimize(int64_t step, const std::function<bool()>& stops) {
    (void)step;
    (void)stops;
    return true;
  }
  // That it holds on this worker for the optimizer, beside slots on the device.
  virtual size_t bytes() const { return 0; }
  // Why no further step can change anything; empty: some may.
  virtual std::string ended() const { return ""; }

  // The schedule has learnt something; nothing is under way.
  void schedule_changed() { control_.forget_rows(replica_.optimizer->updates()); }
  // So far: by the loss scale and by the guard.
  int64_t skipped_steps() const { return scaler_.skipped() + guard_.skipped(); }
  double loss_scale() const { return scaler_.scale(); }
  // Where the device keeps the number of the step to come.
  const uint32_t* random_step() const { return &control_.verdict()->random_step; }
  // Whether updates are part of what issue() issues.
  virtual bool device_decides() const = 0;

  // Loss scale, guard and schedule.
  void describe(State& state) const override;
  void restore(const State& found, const std::string& path) override;

 protected:
  StepEnd(const Parts& parts, double max_norm, int64_t row_size, int64_t ahead);

  // Judges the step that the pass has summed up.
  void judge();
  // What the host makes of a verdict. Every worker gets the same. Returns whether the step leads to an
  // update.
  bool settle(int64_t step, const StepState& verdict);
  StepReport report_of(const StepState& verdict, int64_t update) const;
  // running <- (1 - momentum) running + momentum * mean over the micro-batches; where gate (null: 1) holds 0,
  // nothing.
  void update_statistics(const double* gate) { update_statistics(gate, summed_statistics()); }
  // The sums that the pass has, behind the gradient.
  Tensor summed_statistics() const;
  void update_statistics(const double* gate, const Tensor& summed);

  Replica& replica_;
  GradientPass& pass_;
  Schedule& schedule_;
  const RunSettings& settings_;
  const int64_t micro_batches_;
  LossScaler scaler_;
  OutlierGuard guard_;
  StepControl control_;
  double penalty_ = 0.0;  // what train.l2 adds to the loss of the step
};

// Why the host has to know the verdict on a step before its update, by the name of a setting; empty: the
// device goes on by itself.
std::string host_decides(const Optimizer& optimizer, const RunSettings& settings);

// Error (kUsage), saying why, where device.cuda_graph asks for recorded steps that cannot be.
void require_graph(const RunSettings& settings, const Optimizer& optimizer, Backend& backend);

std::unique_ptr<StepEnd> make_step_end(const StepEnd::Parts& parts);

}  // namespace lockstep
