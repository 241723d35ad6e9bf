// Dynamic and static loss scales.
#include "lockstep/optim/loss_scaler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace lockstep {
namespace {

bool power_of_two(double value) {
  int exponent = 0;
  return std::frexp(value, &exponent) == 0.5;
}

double read_power(Section& section, const std::string& key, double fallback, Range range,
                  const std::string& description) {
  const double value = section.real(key, fallback, range, description);
  if (!power_of_two(value)) {
    section.reject(key, fmt::format("must be a power of two, so that unscaling is exact, got {}", value));
  }
  return value;
}

// Gradients are multiplied by clip factor / (samples * scale), rounded to fp32: up to this scale that number
// is normal for 2^30 samples and a clip factor of 2^-30, so that unscaling loses nothing.
constexpr double kLargestScale = 0x1p64;

}  // namespace

LossScaleSettings settled(LossScaleSettings settings, DType compute) {
  if (settings.mode == LossScaling::kAuto)
    settings.mode = compute == DType::kF16 ? LossScaling::kDynamic : LossScaling::kOff;
  return settings;
}

LossScaleSettings read_loss_scale(Section& precision, DType compute) {
  LossScaleSettings settings;
  const std::string mode =
      precision.text("loss_scale", "auto", {"auto", "off", "static", "dynamic"},
                     "factor of the loss in the backward sweep; auto: dynamic for fp16, else off");
  settings.mode = mode == "dynamic"  ? LossScaling::kDynamic
                  : mode == "static" ? LossScaling::kStatic
                  : mode == "off"    ? LossScaling::kOff
                                     : LossScaling::kAuto;
  settings.initial = read_power(precision, "initial_scale", settings.initial, {0x1p-30, kLargestScale},
                                "first (static: only) loss scale");
  settings.growth = read_power(precision, "growth_factor", settings.growth, {1.0, 0x1p20},
                               "dynamic: factor after growth_interval finite steps");
  settings.backoff = read_power(precision, "backoff_factor", settings.backoff, {0x1p-20, 0.5},
                                "dynamic: factor after a step whose gradient is not finite");
  settings.interval = precision.integer("growth_interval", settings.interval, {1.0, 1e12},
                                        "dynamic: finite steps in a row before the scale grows");
  settings.minimum = read_power(precision, "minimum_scale", settings.minimum, {0x1p-30, kLargestScale},
                                "dynamic: the scale never falls below");
  settings.most_skips =
      precision.integer("stop_after_skips", settings.most_skips, {1.0, 1e12},
                        "steps in a row skipped because the gradient is not finite before the run stops");
  if (settings.minimum > settings.initial) {
    precision.reject("minimum_scale", fmt::format("must not exceed initial_scale = {}, got {}",
                                                  settings.initial, settings.minimum));
  }
  // At their defaults they say nothing: the configuration that a run writes holds every key.
  const LossScaleSettings defaults;
  const auto reject_idle = [&](const char* key, auto value, auto fallback) {
    if (value != fallback) precision.reject(key, fmt::format("has no effect with loss_scale = \"{}\"", mode));
  };
  if (mode == "off") {
    reject_idle("initial_scale", settings.initial, defaults.initial);
    reject_idle("stop_after_skips", settings.most_skips, defaults.most_skips);
  }
  if (mode == "off" || mode == "static") {
    reject_idle("growth_factor", settings.growth, defaults.growth);
    reject_idle("backoff_factor", settings.backoff, defaults.backoff);
    reject_idle("growth_interval", settings.interval, defaults.interval);
    reject_idle("minimum_scale", settings.minimum, defaults.minimum);
  }
  return settled(settings, compute);
}

LossScaler::LossScaler(const LossScaleSettings& settings, DType compute)
    : settings_(settled(settings, compute)) {
  if (settings_.mode != LossScaling::kOff) state_.scale = settings.initial;
}

LossScaleRule LossScaler::rule() const {
  return {settings_.mode == LossScaling::kDynamic, settings_.growth,  settings_.backoff,
          static_cast<double>(settings_.interval), settings_.minimum, kLargestScale};
}

void LossScaler::update(bool finite) {
  advance_loss_scale(rule(), finite, state_);
}

std::map<std::string, double> LossScaler::state() const {
  return {{"mode", static_cast<double>(settings_.mode)},
          {"scale", state_.scale},
          {"finite_steps", state_.finite_steps},
          {"skips_in_a_row", state_.skips_in_a_row},
          {"skipped", state_.skipped}};
}

void LossScaler::set_state(const std::map<std::string, double>& state) {
  // Only a dynamic scale goes on from where a dynamic one was: a resumed run that changes the mode means what
  // it says.
  if (settings_.mode == LossScaling::kDynamic &&
      state.at("mode") == static_cast<double>(LossScaling::kDynamic)) {
    state_.scale = std::max(state.at("scale"), settings_.minimum);
  }
  state_.finite_steps = state.at("finite_steps");
  state_.skips_in_a_row = state.at("skips_in_a_row");
  state_.skipped = state.at("skipped");
}

}  // namespace lockstep
