// The data sets of a run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/data/data_source.h"
#include "lockstep/nn/module.h"
#include "lockstep/train/settings.h"

namespace lockstep {

struct RunData {
  std::shared_ptr<const DataSource> train;
  std::shared_ptr<const DataSource> validation;  // null: none
  DataShape shape;
  // What features were standardized with, in the order of `columns`; empty: they were not.
  FeatureStatistics statistics;
  ColumnNames columns;             // of the training file
  std::string digest;              // of the contents of both, and of which samples are on which side
  std::vector<std::string> hints;  // warnings for the first lines of a run
};

// Opens, splits and standardizes. Error (kData) when training and validation data do not fit each other.
RunData read_run_data(const RunSettings& settings);

}  // namespace lockstep
