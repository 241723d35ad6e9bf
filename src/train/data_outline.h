// What a model has to know of the data that it was trained on, apart from the samples: kept in checkpoints,
// so that predictions need no other file.
#pragma once

#include <string>
#include <vector>

#include "lockstep/data/columns.h"
#include "lockstep/data/feature_statistics.h"
#include "lockstep/nn/module.h"
#include "lockstep/train/run_data.h"

namespace lockstep {

struct DataOutline {
  DataShape shape;
  ColumnNames columns;  // in the order of a sample's elements
  // What features were standardized with, in that order; empty: they were not.
  FeatureStatistics statistics;
  std::vector<std::string> class_names;
  std::string vocabulary = {};  // of tokens (DataDescription); empty: not known

  // As TOML, every digit of the numbers included.
  std::string text() const;
  // Of a text that text() gave. Error (kCheckpoint) naming `path` where it is another.
  static DataOutline parse(const std::string& text, const std::string& path);
};

// Of a run's data as they are given to the model.
DataOutline outline_of(const RunData& data);

}  // namespace lockstep
