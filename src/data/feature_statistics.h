// Mean and standard deviation of each feature, in one pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep {

struct FeatureStatistics {
  std::vector<double> mean, deviation;  // one a feature; of the population (divided by n)
};

// Welford's recurrence in fp64 ("Note on a method for calculating corrected sums of squares and products",
// 1962), row by row: the result does not depend on the pieces in which rows come.
class FeatureStatisticsPass {
 public:
  explicit FeatureStatisticsPass(int64_t features)
      : mean_(static_cast<size_t>(features)), squares_(static_cast<size_t>(features)) {}
  // Whole rows, one behind the other.
  void add(std::span<const float> rows);
  FeatureStatistics result() const;

 private:
  int64_t rows_ = 0;
  std::vector<double> mean_, squares_;
};

}  // namespace lockstep
