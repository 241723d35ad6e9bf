// Comparing evaluations.
#include "lockstep/train/best_checkpoint.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace lockstep {

bool BestCheckpoint::observe(int64_t step, const EvaluationResult& result) {
  if (metric_.empty() || result.samples == 0 || !std::isfinite(result.loss)) return false;
  const bool accuracy = metric_ == "validation_accuracy";
  const double value = accuracy ? result.accuracy : result.loss;
  if (step_ >= 0 && (accuracy ? value <= value_ : value >= value_)) return false;
  step_ = step;
  value_ = value;
  return true;
}

std::string BestCheckpoint::text() const {
  return step_ < 0 ? "" : fmt::format("{} {} {}", metric_, step_, value_);
}

void BestCheckpoint::restore(const std::string& text) {
  forget();
  if (metric_.empty() || !text.starts_with(metric_ + " ")) return;
  const char *begin = text.data() + metric_.size() + 1, *end = text.data() + text.size();
  int64_t step = -1;
  double value = 0.0;
  const auto number = std::from_chars(begin, end, step);
  if (number.ec != std::errc() || number.ptr == end || *number.ptr != ' ' || step < 0) return;
  const auto rest = std::from_chars(number.ptr + 1, end, value);
  if (rest.ec != std::errc() || rest.ptr != end || !std::isfinite(value)) return;
  step_ = step;
  value_ = value;
}

}  // namespace lockstep
