// How a kernel walks through operands of different shapes.
#pragma once

#include "lockstep/core/shape.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {

// Of operands that broadcast_shapes() brings to `out`. Neighbouring axes that both walk through in the same
// way are merged, so that the kernel sees few, long ones.
BroadcastPlan plan_broadcast(const Shape& a, const Shape& b, const Shape& out);

}  // namespace lockstep
