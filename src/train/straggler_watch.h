// Who of the workers is slow: from the times that each needs for its own part of a step, without the time in
// which it waits for the others, but with that by which a quota of processor time makes it late.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace lockstep {

struct Slowest {
  int rank = 0;
  double factor = 1.0;  // its time over the median of the others'
};

class StragglerWatch {
 public:
  // shares: the micro-batches that each worker owns: what their times are divided by. host_of: of a rank.
  StragglerWatch(std::vector<int64_t> shares, std::function<std::string(int)> host_of);

  // A step's seconds of each worker; 0 where nobody knows. throttled: those in which a quota has kept it from
  // running, which need not be the step's own; empty: nobody knows. Returns what there is to say: that a
  // worker has become slow (at least kSlow times as long as the others, over kWindowSeconds of its own time),
  // or that one no longer is. Each is said once.
  std::optional<std::string> add(int64_t step, std::span<const double> seconds,
                                 std::span<const double> throttled = {});
  // Of the steps since the last call; none with one worker, or where nothing is known.
  std::optional<Slowest> take();

  static constexpr double kSlow = 2.0, kWellAgain = 1.5, kWindowSeconds = 2.0;
  // Of a slow one's own time; no less of it throttled is said to be a cause.
  static constexpr double kThrottled = 0.1;

 private:
  std::optional<Slowest> slowest_of(const std::vector<double>& sums) const;

  std::vector<int64_t> shares_;
  std::function<std::string(int)> host_of_;
  std::vector<double> window_, interval_;  // sums of each worker's seconds a micro-batch
  std::vector<double> throttled_;          // of its throttled ones, in the window
  int64_t window_steps_ = 0;
  int slow_ = -1;  // whom was warned of
};

}  // namespace lockstep
