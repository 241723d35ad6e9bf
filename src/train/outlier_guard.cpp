// Running z-scores of losses and gradient norms.
#include "lockstep/train/outlier_guard.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace lockstep {

GuardSettings read_guard(Section& guard) {
  GuardSettings settings;
  settings.loss_z = guard.real(
      "loss_z_score", settings.loss_z, kNonNegative,
      "steps whose loss lies more deviations above its running mean are skipped, 6 for example; 0: off");
  settings.norm_z = guard.real("norm_z_score", settings.norm_z, kNonNegative,
                               "the same for the global norm of the gradient; 0: off");
  settings.window =
      guard.integer("window", settings.window, {2.0, 1e9},
                    "steps that the running mean and deviation look back; the first ones never skip");
  settings.most_skips = guard.integer("stop_after_skips", settings.most_skips, {1.0, 1e12},
                                      "outliers in a row before the run stops as diverged");
  // At their defaults they say nothing: the configuration that a run writes holds every key.
  const GuardSettings defaults;
  if (settings.loss_z == 0.0 && settings.norm_z == 0.0) {
    for (const auto& [key, value, fallback] :
         {std::tuple("window", settings.window, defaults.window),
          {"stop_after_skips", settings.most_skips, defaults.most_skips}}) {
      if (value != fallback) guard.reject(key, "has no effect without loss_z_score or norm_z_score");
    }
  }
  settings.largest_loss = guard.real("largest_loss", settings.largest_loss, kNonNegative,
                                     "a loss above it stops the run as diverged; 0: off");
  return settings;
}

double OutlierStatistics::deviation() const {
  constexpr double kSmallestRelativeDeviation = 1e-3;
  return std::max(std::sqrt(variance_), kSmallestRelativeDeviation * std::abs(mean_));
}

bool OutlierStatistics::outlier(double value, double limit, int64_t window) const {
  return limit > 0.0 && count_ >= window && value > mean_ + limit * deviation();
}

void OutlierStatistics::enter(double value, double limit, int64_t window) {
  if (!std::isfinite(value)) return;
  if (outlier(value, limit, window)) value = mean_ + limit * deviation();
  ++count_;
  if (count_ == 1) {
    mean_ = value;
    return;
  }
  // While fewer values than the window have come, they weigh the same: a plain mean.
  const double weight =
      std::max(2.0 / (static_cast<double>(window) + 1.0), 1.0 / static_cast<double>(count_));
  const double difference = value - mean_;
  mean_ += weight * difference;
  variance_ = (1.0 - weight) * (variance_ + weight * difference * difference);
}

std::map<std::string, double> OutlierStatistics::state(const std::string& prefix) const {
  return {{prefix + "_mean", mean_},
          {prefix + "_variance", variance_},
          {prefix + "_count", static_cast<double>(count_)}};
}

void OutlierStatistics::set_state(const std::string& prefix, const std::map<std::string, double>& state) {
  mean_ = state.at(prefix + "_mean");
  variance_ = state.at(prefix + "_variance");
  count_ = static_cast<int64_t>(state.at(prefix + "_count"));
}

bool OutlierGuard::skip(double loss, double norm) {
  if (settings_.loss_z == 0.0 && settings_.norm_z == 0.0) return false;
  const bool outlier = loss_.outlier(loss, settings_.loss_z, settings_.window) ||
                       norm_.outlier(norm, settings_.norm_z, settings_.window);
  loss_.enter(loss, settings_.loss_z, settings_.window);
  norm_.enter(norm, settings_.norm_z, settings_.window);
  skips_in_a_row_ = outlier ? skips_in_a_row_ + 1 : 0;
  skipped_ += outlier ? 1 : 0;
  return outlier;
}

std::map<std::string, double> OutlierGuard::state() const {
  std::map<std::string, double> state = loss_.state("loss");
  state.merge(norm_.state("norm"));
  state["skips_in_a_row"] = static_cast<double>(skips_in_a_row_);
  state["skipped"] = static_cast<double>(skipped_);
  return state;
}

void OutlierGuard::set_state(const std::map<std::string, double>& state) {
  loss_.set_state("loss", state);
  norm_.set_state("norm", state);
  skips_in_a_row_ = static_cast<int64_t>(state.at("skips_in_a_row"));
  skipped_ = static_cast<int64_t>(state.at("skipped"));
}

}  // namespace lockstep
