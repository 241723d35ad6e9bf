// Matching parameter names, and cutting the flat array where settings change.
#include "lockstep/optim/parameter_groups.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"

namespace lockstep {

std::vector<ParameterGroup> read_parameter_groups(Section& optimizer) {
  std::vector<ParameterGroup> groups;
  for (Section& table : optimizer.tables("groups")) {
    ParameterGroup group;
    group.pattern =
        table.text("pattern", std::nullopt, {},
                   "parameters by name, * for any characters, ? for one: \"*.bias\"; the first fit counts");
    group.weight_decay = table.boolean("weight_decay", true, "false: no weight decay on these parameters");
    group.learning_rate_factor = table.real("learning_rate_factor", 1.0, kNonNegative,
                                            "multiplies their learning rate; 0 freezes them");
    groups.push_back(std::move(group));
  }
  return groups;
}

void require_fit(const std::string& where, const std::string& pattern,
                 const std::vector<ParameterEntry>& parameters) {
  std::string names;
  for (const ParameterEntry& entry : parameters) {
    if (matches_pattern(pattern, entry.name)) return;
    names += (names.empty() ? "" : ", ") + entry.name;
  }
  fail(ErrorKind::kUsage,
       fmt::format("{}: pattern \"{}\" fits no parameter; there are {}", where, pattern, names));
}

std::vector<UpdateSegment> update_segments(const std::vector<ParameterEntry>& parameters, int64_t extent,
                                           bool decay_biases, const std::vector<ParameterGroup>& groups) {
  for (const ParameterGroup& group : groups) require_fit("optimizer.groups", group.pattern, parameters);
  std::vector<UpdateSegment> segments;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const ParameterEntry& entry = parameters[i];
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const ParameterGroup& candidate) {
      return matches_pattern(candidate.pattern, entry.name);
    });
    UpdateSegment segment;
    segment.begin = entry.offset;
    // Gaps stay zero under every update rule, so neighbours with the same settings make one segment.
    segment.end = i + 1 < parameters.size() ? parameters[i + 1].offset : extent;
    segment.weight_decay = decay_biases || entry.shape.rank() > 1;
    if (group != groups.end()) {
      segment.weight_decay = segment.weight_decay && group->weight_decay;
      segment.learning_rate_factor = group->learning_rate_factor;
    }
    if (!segments.empty() && segments.back().weight_decay == segment.weight_decay &&
        segments.back().learning_rate_factor == segment.learning_rate_factor) {
      segments.back().end = segment.end;
    } else {
      segments.push_back(segment);
    }
  }
  return segments;
}

}  // namespace lockstep
