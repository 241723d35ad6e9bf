// Plans of broadcasts.
#include "lockstep/ops/broadcast_plan.h"

#include <utility>

namespace lockstep {

BroadcastPlan plan_broadcast(const Shape& a, const Shape& b, const Shape& out) {
  BroadcastPlan plan;
  int64_t stride_a = 1, stride_b = 1;
  // From the last axis to the first; the plan is built in reverse and turned around at the end.
  for (int axis = out.rank() - 1; axis >= 0; --axis) {
    const int ia = axis - (out.rank() - a.rank());
    const int ib = axis - (out.rank() - b.rank());
    const int64_t ea = ia < 0 ? 1 : a[ia];
    const int64_t eb = ib < 0 ? 1 : b[ib];
    const int64_t extent = out[axis];
    const int64_t sa = ea == 1 ? 0 : stride_a;
    const int64_t sb = eb == 1 ? 0 : stride_b;
    stride_a *= ea;
    stride_b *= eb;
    if (extent == 1) continue;
    if (plan.rank > 0) {
      const int last = plan.rank - 1;
      const int64_t inner = plan.extents[last];
      const bool merge_a = plan.strides_a[last] == 0 ? sa == 0 : sa == plan.strides_a[last] * inner;
      const bool merge_b = plan.strides_b[last] == 0 ? sb == 0 : sb == plan.strides_b[last] * inner;
      if (merge_a && merge_b) {
        plan.extents[last] *= extent;
        continue;
      }
    }
    plan.extents[plan.rank] = extent;
    plan.strides_a[plan.rank] = sa;
    plan.strides_b[plan.rank] = sb;
    ++plan.rank;
  }
  if (plan.rank == 0) {
    plan.rank = 1;
    plan.extents[0] = 1;
  }
  for (int i = 0, j = plan.rank - 1; i < j; ++i, --j) {
    std::swap(plan.extents[i], plan.extents[j]);
    std::swap(plan.strides_a[i], plan.strides_a[j]);
    std::swap(plan.strides_b[i], plan.strides_b[j]);
  }
  return plan;
}

}  // namespace lockstep
