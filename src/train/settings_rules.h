// What must hold of settings wherever they come from: a configuration, or a program that fills them in.
#pragma once

#include <functional>
#include <string>

#include "lockstep/train/settings.h"

namespace lockstep {

// Calls `refuse` for a setting that does not go with the others.
using RefuseSetting =
    std::function<void(const std::string& section, const std::string& key, const std::string& rule)>;
void check_combinations(const RunSettings& settings, const RefuseSetting& refuse);

// Of settings that may be a program's: the ranges and choices of their keys in a configuration, and
// check_combinations(). Error (kUsage) "train.log_every: must be in [1, 1000000000000], got 0".
void require_valid(const RunSettings& settings);

}  // namespace lockstep
