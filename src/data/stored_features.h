// From how features are stored to what models take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data/data_source.h"

namespace lockstep {

// `count` stored features to fp32, each value * scale / divisor.
void convert_features(const StoredSamples& stored, const std::byte* from, int64_t count, float* to);

// Samples of each class that count; empty where there are none, or more classes than are worth it.
std::vector<int64_t> class_counts(const Dataset& dataset);

// Views of the arrays of a table, which must outlive them.
StoredSamples stored_samples(const Dataset& dataset);

}  // namespace lockstep
