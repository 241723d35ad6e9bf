// What becomes of a training step once its gradient is summed: verdict, clip factor, loss scale. One formula
// for every backend, so that a device may decide by itself while the host is steps ahead.
#pragma once

#include <cmath>
#include <cstdint>

#include "lockstep/kernels/math/formula.h"

namespace lockstep {

// How the loss scale moves (optim/loss_scaler.h); counts are whole numbers.
struct LossScaleRule {
  bool dynamic = false;
  double growth = 2.0, backoff = 0.5;
  double interval = 2000.0;
  double minimum = 1.0, largest = 1.0;
};

struct LossScaleState {
  double scale = 1.0;
  double finite_steps = 0.0;    // since the scale changed or a step was skipped
  double skips_in_a_row = 0.0;  // the last ones
  double skipped = 0.0;         // all
};

// After a step: was its gradient finite? Dynamic: grows, when the new scale is not too large, or backs off
// (Micikevicius et al. 2018).
LOCKSTEP_FORMULA void advance_loss_scale(const LossScaleRule& rule, bool finite, LossScaleState& state) {
  if (!finite) {
    state.skips_in_a_row += 1.0;
    state.skipped += 1.0;
    state.finite_steps = 0.0;
    if (!rule.dynamic) return;
    const double smaller = state.scale * rule.backoff;
    state.scale = smaller > rule.minimum ? smaller : rule.minimum;
    return;
  }
  state.skips_in_a_row = 0.0;
  if (!rule.dynamic) return;
  state.finite_steps += 1.0;
  if (state.finite_steps < rule.interval) return;
  state.finite_steps = 0.0;
  if (state.scale * rule.growth <= rule.largest) state.scale *= rule.growth;
}

// The factor min(1, max_norm / (norm + 1e-6)) (Pascanu et al. 2013; constant as in common practice). 1 when
// max_norm is 0 (clipping off) or the norm is not finite.
LOCKSTEP_FORMULA double clip_factor_of(double norm, double max_norm) {
  if (max_norm == 0.0 || !(norm - norm == 0.0)) return 1.0;
  const double factor = max_norm / (norm + 1e-6);
  return factor < 1.0 ? factor : 1.0;
}

// A training run's counters and what the last step was, in a backend's memory. Counts are whole numbers.
struct StepState {
  // Carried from step to step.
  LossScaleState loss_scale;
  double updates = 0.0;      // of the optimizer, so far
  uint32_t random_step = 0;  // the number of the step to come, for draws
  uint32_t unused = 0;
  // Of the step that was judged last.
  double count = 0.0;       // sum of its samples' weights
  double used_scale = 1.0;  // its loss scale
  double loss = 0.0;        // mean over the samples
  double norm = 0.0;        // of the gradient of that mean, before clipping
  double gate = 0.0;        // 1: it leads to an update; 0: it is skipped
  double factor = 0.0;      // what its summed gradient is multiplied by: unscaling, mean and clipping in one
};

// The order: summed -> finite? -> unscaled -> norm -> clipped; then the scale of the next step. Whoever clips
// before unscaling clips the loss scale.
//
// square_sum: of the summed gradient's elements; loss_sum: of the samples' losses, each times its weight, not
// scaled; count: of the weights. A step in which nothing counts says nothing: no update, and no progress of
// the loss scale.
LOCKSTEP_FORMULA void judge_step(double square_sum, double loss_sum, double count, double max_norm,
                                 const LossScaleRule& rule, StepState& state) {
  state.count = count;
  state.used_scale = state.loss_scale.scale;
  state.random_step += 1;
  if (count == 0.0) {
    state.loss = state.norm = state.gate = state.factor = 0.0;
    return;
  }
  const double scale = 1.0 / (count * state.loss_scale.scale);
  state.loss = loss_sum / count;
  state.norm = std::sqrt(square_sum) * std::abs(scale);
  const bool finite = state.loss - state.loss == 0.0 && state.norm - state.norm == 0.0;
  state.gate = finite ? 1.0 : 0.0;
  state.factor = scale * clip_factor_of(state.norm, max_norm);
  if (finite) state.updates += 1.0;
  advance_loss_scale(rule, finite, state.loss_scale);
}

}  // namespace lockstep
