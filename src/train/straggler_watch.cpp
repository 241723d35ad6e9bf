// Comparing times.
#include "lockstep/train/straggler_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace lockstep {

StragglerWatch::StragglerWatch(std::vector<int64_t> shares, std::function<std::string(int)> host_of)
    : shares_(std::move(shares)),
      host_of_(std::move(host_of)),
      window_(shares_.size(), 0.0),
      interval_(shares_.size(), 0.0),
      throttled_(shares_.size(), 0.0) {}

std::optional<Slowest> StragglerWatch::slowest_of(const std::vector<double>& sums) const {
  if (sums.size() < 2) return std::nullopt;
  const auto rank = std::ranges::max_element(sums) - sums.begin();
  std::vector<double> others = sums;
  others.erase(others.begin() + rank);
  const auto middle = others.begin() + static_cast<int64_t>((others.size() - 1) / 2);
  std::ranges::nth_element(others, middle);
  if (*middle <= 0.0) return std::nullopt;
  return Slowest{static_cast<int>(rank), sums[static_cast<size_t>(rank)] / *middle};
}

std::optional<std::string> StragglerWatch::add(int64_t step, std::span<const double> seconds,
                                               std::span<const double> throttled) {
  double longest = 0.0;
  for (size_t rank = 0; rank < shares_.size(); ++rank) {
    const double of_micro_batch = seconds[rank] / static_cast<double>(shares_[rank]);
    window_[rank] += of_micro_batch;
    interval_[rank] += of_micro_batch;
    longest = std::max(longest, window_[rank] * static_cast<double>(shares_[rank]));
  }
  for (size_t rank = 0; rank < throttled.size(); ++rank) throttled_[rank] += throttled[rank];
  ++window_steps_;
  if (longest < kWindowSeconds) return std::nullopt;
  const auto steps = static_cast<double>(std::exchange(window_steps_, 0));
  const std::vector<double> sums = std::exchange(window_, std::vector<double>(shares_.size(), 0.0));
  const std::vector<double> kept = std::exchange(throttled_, std::vector<double>(shares_.size(), 0.0));
  const std::optional<Slowest> slowest = slowest_of(sums);
  if (!slowest) return std::nullopt;
  const auto named = [&](int rank) { return fmt::format("rank {} on host {}", rank, host_of_(rank)); };
  if (slowest->factor >= kSlow && slowest->rank != slow_) {
    slow_ = slowest->rank;
    const double time = sums[static_cast<size_t>(slow_)] / steps;
    const auto slow = static_cast<size_t>(slow_);
    const double own = sums[slow] * static_cast<double>(shares_[slow]);
    const std::string cause =
        kept[slow] < kThrottled * own
            ? ""
            : fmt::format(
                  "; its control group's quota of processor time has kept it from running for {:.3g} s, "
                  "added up over cores: cpu.max, or a container's limit",
                  kept[slow]);
    return fmt::format(
        "step {}: {} is slow: a micro-batch takes it {:.3g} times as long as others, {:.3g} s "
        "instead of {:.3g} s{}",
        step, named(slow_), slowest->factor, time, time / slowest->factor, cause);
  }
  if (slow_ >= 0 && (slowest->factor < kWellAgain || slowest->rank != slow_))
    return fmt::format("step {}: {} keeps up again", step, named(std::exchange(slow_, -1)));
  return std::nullopt;
}

std::optional<Slowest> StragglerWatch::take() {
  const std::optional<Slowest> slowest = slowest_of(interval_);
  std::ranges::fill(interval_, 0.0);
  return slowest;
}

}  // namespace lockstep
