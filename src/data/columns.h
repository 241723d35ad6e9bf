// Names of the columns of a table, which tell what its numbers mean.
#pragma once

#include <string>
#include <vector>

namespace lockstep {

struct Dataset;

struct ColumnNames {
  std::vector<std::string> features;  // in the order of a sample's elements; empty: the data have no names
  std::string target;

  bool operator==(const ColumnNames&) const = default;
};

// Puts the features into the order of `wanted`, the columns of `owner` ("train.csv"), by their names. Error
// (kData) naming columns that are missing or not wanted, or another target. Where one of both has no names
// nothing is done.
void match_columns(Dataset& dataset, const ColumnNames& wanted, const std::string& owner);

}  // namespace lockstep
