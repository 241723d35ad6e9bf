// Nearest names by edit distance.
#include "lockstep/core/suggestions.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace lockstep {

namespace {

// Edits between two names: insertions, deletions, substitutions and swaps of neighbours (optimal string
// alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitution = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

// "lr" of "learning_rate".
std::string initials(std::string_view name) {
  std::string result;
  for (size_t i = 0; i < name.size(); ++i) {
    if (i == 0 || name[i - 1] == '_') result += name[i];
  }
  return result;
}

}  // namespace

std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& names) {
  if (name.size() > 64) return {};  // no name is that long
  std::vector<std::pair<size_t, std::string>> near;
  for (const std::string& candidate : names) {
    const bool abbreviated = name.size() > 1 && name == initials(candidate);
    const size_t distance = abbreviated ? 0 : edit_distance(name, candidate);
    if (distance <= std::max<size_t>(2, candidate.size() / 3) && distance < candidate.size()) {
      near.emplace_back(distance, candidate);
    }
  }
  std::sort(near.begin(), near.end());
  std::vector<std::string> result;
  for (size_t i = 0; i < std::min<size_t>(3, near.size()); ++i) result.push_back(near[i].second);
  return result;
}

std::string did_you_mean(const std::vector<std::string>& names) {
  return names.empty() ? "" : fmt::format("did you mean {}?", fmt::join(names, " or "));
}

}  // namespace lockstep
