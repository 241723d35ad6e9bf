// A permutation of axes reduced to what matters for memory, shared by every backend.
#pragma once

#include <cstdint>

#include "lockstep/kernels/backend.h"

namespace lockstep {

// The output axes after axes of extent 1 are dropped and axes that stay neighbours are merged.
struct PermutePlan {
  int rank = 0;
  int64_t extents[BroadcastPlan::kMaxRank];
  int64_t input_strides[BroadcastPlan::kMaxRank];   // of each output axis, in elements of the input
  int64_t output_strides[BroadcastPlan::kMaxRank];  // in elements of the output

  // The axis that runs along the input's memory.
  int unit_axis() const {
    int axis = 0;
    while (input_strides[axis] != 1) ++axis;
    return axis;
  }
};

// Output axis i is input axis permutation[i]; extents are the input's, none of them 0.
inline PermutePlan plan_permute(int rank, const int64_t* extents, const int* permutation) {
  int64_t strides[BroadcastPlan::kMaxRank];
  int64_t stride = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    strides[axis] = stride;
    stride *= extents[axis];
  }
  PermutePlan plan;
  for (int i = 0; i < rank; ++i) {
    const int64_t extent = extents[permutation[i]], input_stride = strides[permutation[i]];
    if (extent == 1) continue;
    if (plan.rank > 0 && plan.input_strides[plan.rank - 1] == extent * input_stride) {
      plan.extents[plan.rank - 1] *= extent;
      plan.input_strides[plan.rank - 1] = input_stride;
    } else {
      plan.extents[plan.rank] = extent;
      plan.input_strides[plan.rank] = input_stride;
      ++plan.rank;
    }
  }
  stride = 1;
  for (int axis = plan.rank - 1; axis >= 0; --axis) {
    plan.output_strides[axis] = stride;
    stride *= plan.extents[axis];
  }
  return plan;
}

}  // namespace lockstep
