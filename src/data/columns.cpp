// Reordering the columns of a data set.
#include "data/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/log.h"
#include "data/dataset.h"

namespace lockstep {

namespace {

std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  const size_t shown = std::min(names.size(), kShown);
  return fmt::format("'{}'{}",
                     fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), "', '"),
                     names.size() > shown ? fmt::format(" and {} more", names.size() - shown) : "");
}

// order[i]: where element i of a sample stood before.
template <class T>
void reorder(std::vector<T>& values, const std::vector<size_t>& order) {
  std::vector<T> row(order.size());
  for (auto at = values.begin(); at != values.end(); at += static_cast<std::ptrdiff_t>(row.size())) {
    std::copy_n(at, row.size(), row.begin());
    std::transform(order.begin(), order.end(), at, [&](size_t from) { return row[from]; });
  }
}

}  // namespace

void match_columns(Dataset& dataset, const ColumnNames& wanted, const std::string& owner) {
  ColumnNames& own = dataset.columns;
  if (own.features.empty() || wanted.features.empty() || own == wanted) return;
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < own.features.size(); ++i) places.emplace(own.features[i], i);
  std::vector<size_t> order;
  std::vector<std::string> missing;
  for (const std::string& name : wanted.features) {
    const auto found = places.find(name);
    if (found == places.end()) {
      missing.push_back(name);
    } else {
      order.push_back(found->second);
      places.erase(found);
    }
  }
  if (!missing.empty()) {
    fail(ErrorKind::kData,
         fmt::format("{}: has no column {}, which {} has", dataset.source, some_of(missing), owner));
  }
  if (!places.empty()) {
    std::vector<std::string> unexpected;
    for (const auto& [name, place] : places) unexpected.push_back(name);
    fail(ErrorKind::kData, fmt::format("{}: has the column {}, which {} does not have", dataset.source,
                                       some_of(unexpected), owner));
  }
  if (own.target != wanted.target && !own.target.empty() && !wanted.target.empty()) {
    fail(ErrorKind::kData, fmt::format("{}: its target is the column '{}', that of {} is '{}'",
                                       dataset.source, own.target, owner, wanted.target));
  }
  if (own.features == wanted.features) return;
  log_info(fmt::format("{}: columns are taken by name, in the order of {}", dataset.source, owner));
  reorder(dataset.inputs_f32, order);
  reorder(dataset.inputs_i32, order);
  own.features = wanted.features;
}

}  // namespace lockstep
