// A guard against outliers: steps whose loss or gradient norm lies far above what it was lately are skipped.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "lockstep/core/configuration.h"

namespace lockstep {

struct GuardSettings {
  double loss_z = 0.0, norm_z = 0.0;  // largest z-scores; 0: off
  int64_t window = 128;               // steps that the running mean and deviation look back
  int64_t most_skips = 20;            // in a row, then the run has diverged
  double largest_loss = 0.0;          // above: the run has diverged; 0: off
};

// Reads [guard] loss_z_score, norm_z_score, window, stop_after_skips, largest_loss.
GuardSettings read_guard(Section& guard);

// z-score of a stream of values against its exponentially weighted mean and variance (West 1979): with a = 2
// / (window + 1),
//   mean <- mean + a d,  variance <- (1 - a) (variance + a d^2),  d = value - mean.
// An outlier enters as mean + limit * deviation, so that one cannot spoil the statistics but a lasting change
// is learnt. Values that are not finite never enter.
class OutlierStatistics {
 public:
  // Does the value lie above mean + limit * deviation? Never during the first `window` values. A deviation
  // below 0.1% of the mean counts as that: of nearly constant values none is an outlier. limit 0: never.
  bool outlier(double value, double limit, int64_t window) const;
  void enter(double value, double limit, int64_t window);

  std::map<std::string, double> state(const std::string& prefix) const;
  void set_state(const std::string& prefix, const std::map<std::string, double>& state);

 private:
  double deviation() const;

  double mean_ = 0.0, variance_ = 0.0;
  int64_t count_ = 0;
};

class OutlierGuard {
 public:
  explicit OutlierGuard(const GuardSettings& settings) : settings_(settings) {}

  // True when the step is to be skipped. Enters both values.
  bool skip(double loss, double norm);
  int64_t skips_in_a_row() const { return skips_in_a_row_; }
  int64_t skipped() const { return skipped_; }
  bool diverged() const { return skips_in_a_row_ >= settings_.most_skips; }

  std::map<std::string, double> state() const;
  void set_state(const std::map<std::string, double>& state);

 private:
  GuardSettings settings_;
  OutlierStatistics loss_, norm_;
  int64_t skips_in_a_row_ = 0, skipped_ = 0;
};

}  // namespace lockstep
