// Names of the columns of a table, which tell what its numbers mean.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace lockstep {

class DataSource;

struct ColumnNames {
  std::vector<std::string> features;  // in the order of a sample's elements; empty: the data have no names
  std::string target;

  bool operator==(const ColumnNames&) const = default;
};

// The source with its features in the order of `wanted`, the columns of `owner` ("train.csv"), by their
// names; itself where they are in that order, or where one of both has no names. Error (kData) naming columns
// that are missing or not wanted, or another target.
std::shared_ptr<const DataSource> match_columns(std::shared_ptr<const DataSource> source,
                                                const ColumnNames& wanted, const std::string& owner);

}  // namespace lockstep
