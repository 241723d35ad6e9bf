// The additions of the reduction tree as straight-line programs: what one worker adds up alone, and how the
// workers' partial sums are combined. Computed once; run for every slice of every step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/reduction_tree.h"

namespace lockstep {

// array `to` += array `from`
struct Addition {
  int to, from;
  bool operator==(const Addition&) const = default;
};

// What happens to one micro-batch when its gradient arrives: it is kept in a buffer or added to one, then the
// sums that it completes are carried up the tree, as in a binary counter.
struct LocalStep {
  int buffer = 0;
  bool keep = false;  // overwrite the buffer, rather than add to it
  std::vector<Addition> carries;
};

struct LocalPlan {
  int buffers = 0;
  std::vector<LocalStep> steps;  // one a leaf, left to right
};

// Sums up the leaves of adjacent nodes; after the last leaf the sum of nodes[i] is in buffer i.
LocalPlan plan_local_sums(std::span<const TreeNode> nodes);

// Sums up `leaves` leaves one after the other, in one buffer.
LocalPlan plan_running_sum(int64_t leaves);

// Sums up the tree over `micro_batches` leaves out of `nodes`, which cover it left to right; array i holds
// the sum of nodes[i]. The total ends in array `home`; a + b == b + a bit for bit, so every worker can have
// it end where it likes.
std::vector<Addition> plan_combination(int64_t micro_batches, std::span<const TreeNode> nodes, int home);

}  // namespace lockstep
