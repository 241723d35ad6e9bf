// Which rows of targets are labels, a single 1 among zeros.
#include <fmt/format.h>

#include <algorithm>

#include "lockstep/data/formats.h"

namespace lockstep {

OneHotRows one_hot_rows(std::span<const float> targets, int64_t width) {
  OneHotRows rows;
  int64_t first_other = -1;
  for (auto row = targets.begin(); row != targets.end(); row += width) {
    const auto one = std::find(row, row + width, 1.0f);
    const bool fits = one != row + width && std::count(row, row + width, 0.0f) == width - 1;
    if (!fits && rows.others++ == 0) first_other = std::ssize(rows.labels);
    rows.labels.push_back(fits ? one - row : 0);
  }
  if (rows.others == 0) return rows;
  const auto row = targets.begin() + first_other * width;
  const auto odd = std::find_if(row, row + width, [](float value) { return value != 0.0f && value != 1.0f; });
  rows.fault = fmt::format("row {} is not one-hot as {} of {} rows are: {}", first_other + 1,
                           std::ssize(rows.labels) - rows.others, rows.labels.size(),
                           odd != row + width
                               ? fmt::format("element {} is {}", odd - row + 1, *odd)
                               : fmt::format("{} of its elements are 1", std::count(row, row + width, 1.0f)));
  return rows;
}

}  // namespace lockstep
