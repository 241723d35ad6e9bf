// Where the state of each parameter is in an optimizer's slots, and on which worker: what checkpoints need to
// know.
#pragma once

#include <vector>

#include "lockstep/optim/optimizer.h"
#include "lockstep/parallel/parameter_shards.h"

namespace lockstep {

// The parts of the whole slot that belong to parameters, in order.
std::vector<SlotEntry> slot_entries(const OptimizerSlot& slot, const std::vector<ParameterEntry>& parameters);

// Who owns what of the whole slot, when the optimizer of each worker was given the worker's own of `shards`.
std::vector<Share> slot_shares(const OptimizerSlot& slot, const std::vector<ParameterEntry>& parameters,
                               const ParameterShards& shards);

}  // namespace lockstep
