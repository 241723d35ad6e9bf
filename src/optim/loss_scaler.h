// Loss scaling: keeps small gradients above the smallest numbers of 16-bit arithmetic (Micikevicius et al.
// 2018).
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "lockstep/core/configuration.h"
#include "lockstep/core/dtype.h"
#include "lockstep/kernels/math/step_verdict.h"

namespace lockstep {

// kAuto: dynamic for fp16, else off. Checkpoints hold the numbers of the others.
enum class LossScaling : uint8_t { kOff, kStatic, kDynamic, kAuto };

struct LossScaleSettings {
  LossScaling mode = LossScaling::kAuto;
  double initial = 65536.0;  // scales are powers of two, so that unscaling is exact
  double growth = 2.0;       // factor after `interval` finite steps
  double backoff = 0.5;      // factor after a step that is not finite
  int64_t interval = 2000;   // finite steps, one after the other
  double minimum = 1.0;      // floor
  int64_t most_skips = 20;   // in a row, then the run has diverged
};

// With what kAuto is for this type.
LossScaleSettings settled(LossScaleSettings settings, DType compute);

// Reads precision.loss_scale = "auto" | "off" | "static" | "dynamic", which it settles, and
// initial_scale, growth_factor, backoff_factor, growth_interval, minimum_scale, stop_after_skips. Error
// (kUsage) for scales that are no powers of two.
LossScaleSettings read_loss_scale(Section& precision, DType compute);

// The scale of each step. What it sees is the reduced gradient's verdict, so it is the same on every worker.
class LossScaler {
 public:
  explicit LossScaler(const LossScaleSettings& settings, DType compute = DType::kF32);

  // What the loss of the next step is multiplied by; 1 when off.
  double scale() const { return state_.scale; }
  // Whether a step whose gradient is not finite is skipped; when not, it means divergence.
  bool skips() const { return settings_.mode != LossScaling::kOff; }
  // After every step: was its gradient finite? Dynamic: grows or backs off.
  void update(bool finite);
  // Skipped steps, the last ones without a finite one between them, and all.
  int64_t skips_in_a_row() const { return static_cast<int64_t>(state_.skips_in_a_row); }
  int64_t skipped() const { return static_cast<int64_t>(state_.skipped); }
  bool diverged() const { return skips_in_a_row() >= settings_.most_skips; }
  // What a device needs to move the scale by itself.
  LossScaleRule rule() const;
  const LossScaleState& counters() const { return state_; }

  // For checkpoints: "mode", "scale", "finite_steps", "skips_in_a_row", "skipped".
  std::map<std::string, double> state() const;
  void set_state(const std::map<std::string, double>& state);

 private:
  LossScaleSettings settings_;
  LossScaleState state_;
};

}  // namespace lockstep
