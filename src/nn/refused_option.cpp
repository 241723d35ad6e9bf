// Ranges of options that a program gives by itself.
#include "lockstep/nn/refused_option.h"

#include <fmt/format.h>

#include <cmath>

namespace lockstep {

void require_option(const char* owner, const char* key, double value, const Range& range) {
  const bool low = range.open_minimum ? value <= range.minimum : value < range.minimum;
  if (std::isfinite(value) && !low && value <= range.maximum) return;
  KeyDescription described;
  described.range = range;
  throw RefusedOption(owner, key, fmt::format("must be{}, got {}", described.rule(), value));
}

}  // namespace lockstep
