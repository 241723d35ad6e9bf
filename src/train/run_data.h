// The data sets of a run.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "nn/module.h"
#include "train/settings.h"

namespace lockstep {

struct RunData {
  Dataset train;
  std::optional<Dataset> validation;
  DataShape shape;
  std::string digest;              // of the contents of both
  std::vector<std::string> hints;  // warnings for the first lines of a run
};

// Reads and splits. Error (kData) when training and validation data do not fit each other.
RunData read_run_data(const RunSettings& settings);

}  // namespace lockstep
