// Slots are parallel to the parameters, or list their parts themselves.
#include "lockstep/optim/slot_layout.h"

#include <algorithm>

namespace lockstep {

std::vector<SlotEntry> slot_entries(const OptimizerSlot& slot,
                                    const std::vector<ParameterEntry>& parameters) {
  if (!slot.entries.empty()) return slot.entries;
  std::vector<SlotEntry> entries;
  for (const ParameterEntry& entry : parameters) entries.push_back({entry.name, entry.shape, entry.offset});
  return entries;
}

std::vector<Share> slot_shares(const OptimizerSlot& slot, const std::vector<ParameterEntry>& parameters,
                               const ParameterShards& shards) {
  if (slot.entries.empty()) return shards.shares();
  std::vector<Share> shares;
  for (const SlotEntry& entry : slot.entries) {
    const auto parameter =
        std::ranges::find_if(parameters, [&](const ParameterEntry& p) { return p.name == entry.parameter; });
    const auto share = std::ranges::find_if(shards.shares(),
                                            [&](const Share& s) { return parameter->offset < s.range.end; });
    shares.push_back({{entry.offset, entry.offset + entry.shape.elements()}, share->owner});
  }
  return shares;
}

}  // namespace lockstep
