// One pass over the rows.
#include "lockstep/data/feature_statistics.h"

#include <algorithm>
#include <cmath>

namespace lockstep {

void FeatureStatisticsPass::add(std::span<const float> rows) {
  const size_t features = mean_.size();
  for (size_t at = 0; at + features <= rows.size() && features > 0; at += features) {
    const double share = 1.0 / static_cast<double>(++rows_);
    const float* row = rows.data() + at;
    for (size_t i = 0; i < features; ++i) {
      const double value = row[i], before = value - mean_[i];
      mean_[i] += before * share;
      squares_[i] += before * (value - mean_[i]);
    }
  }
}

FeatureStatistics FeatureStatisticsPass::result() const {
  FeatureStatistics result{mean_, squares_};
  for (double& value : result.deviation)
    value = std::sqrt(value / static_cast<double>(std::max<int64_t>(rows_, 1)));
  return result;
}

}  // namespace lockstep
