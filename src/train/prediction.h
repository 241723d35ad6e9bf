// What a trained model makes of samples, as a file.
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/comm/communicator.h"
#include "lockstep/core/configuration.h"
#include "lockstep/data/dataset.h"

namespace lockstep {

// Writes the predictions of a checkpoint's model for `data`, which need no targets, to `path`: HDF5, sealed,
// with /logits (n, outputs), or /values of a regression, in the type of the parameters, and /class (n) int32
// of a classification, -1 where a logit is not a number. Rows stand in the order of the data. The data are
// read in the configuration's format unless they say another; their columns are matched by name, and features
// standardized as the training data were. weights, base: as TrainedModel; becomes the ones that were used.
// The same bits on any number of workers. Returns the number of samples. Collective.
int64_t predict(Configuration& configuration, const std::string& checkpoint, DatasetOptions data,
                const std::string& path, Communicator& communicator, std::string& weights,
                const std::string& base = "");

}  // namespace lockstep
