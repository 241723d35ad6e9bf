// Parameter groups: settings of updates that apply to parameters by their names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/core/configuration.h"
#include "lockstep/core/name_pattern.h"
#include "lockstep/optim/optimizer.h"

namespace lockstep {

// Error (kUsage) naming `where` and all names when the pattern fits none of the parameters.
void require_fit(const std::string& where, const std::string& pattern,
                 const std::vector<ParameterEntry>& parameters);

struct ParameterGroup {
  std::string pattern;
  bool weight_decay = true;  // false takes decay away; true leaves it as it is
  double learning_rate_factor = 1.0;
};

// Reads [[optimizer.groups]]: pattern, weight_decay (true), learning_rate_factor (1; 0 freezes).
std::vector<ParameterGroup> read_parameter_groups(Section& optimizer);

// The parameters as segments over the flat array of `extent` elements; neighbours with the same settings are
// one. The first group whose pattern fits a name counts. decay_biases: whether parameters of one axis
// (biases, gains, shifts) decay. Error (kUsage) for a pattern that fits no parameter, with all names.
std::vector<UpdateSegment> update_segments(const std::vector<ParameterEntry>& parameters, int64_t extent,
                                           bool decay_biases, const std::vector<ParameterGroup>& groups);

}  // namespace lockstep
