// Finding columns by their names.
#include "lockstep/data/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/log.h"
#include "lockstep/data/data_source.h"

namespace lockstep {

namespace {

std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  const size_t shown = std::min(names.size(), kShown);
  return fmt::format("'{}'{}",
                     fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), "', '"),
                     names.size() > shown ? fmt::format(" and {} more", names.size() - shown) : "");
}

}  // namespace

std::shared_ptr<const DataSource> match_columns(std::shared_ptr<const DataSource> source,
                                                const ColumnNames& wanted, const std::string& owner) {
  const ColumnNames& own = source->description().columns;
  const std::string& name_of_source = source->description().source;
  if (own.features.empty() || wanted.features.empty() || own == wanted) return source;
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
         fmt::format("{}: has no column {}, which {} has", name_of_source, some_of(missing), owner));
  }
  if (!places.empty()) {
    std::vector<std::string> unexpected;
    for (const auto& [name, place] : places) unexpected.push_back(name);
    fail(ErrorKind::kData, fmt::format("{}: has the column {}, which {} does not have", name_of_source,
                                       some_of(unexpected), owner));
  }
  if (own.target != wanted.target && !own.target.empty() && !wanted.target.empty()) {
    fail(ErrorKind::kData, fmt::format("{}: its target is the column '{}', that of {} is '{}'",
                                       name_of_source, own.target, owner, wanted.target));
  }
  if (own.features == wanted.features) return source;
  log_info(fmt::format("{}: columns are taken by name, in the order of {}", name_of_source, owner));
  return std::make_shared<ReorderedSource>(std::move(source), std::move(order), wanted);
}

}  // namespace lockstep
