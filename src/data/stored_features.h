// Views of a table, and what is counted of it.
#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/data/data_source.h"

namespace lockstep {

// Samples of each class that count; empty where there are none, or more classes than are worth it.
std::vector<int64_t> class_counts(const Dataset& dataset);

// Views of the arrays of a table, which must outlive them.
StoredSamples stored_samples(const Dataset& dataset);

}  // namespace lockstep
