// The additions of the reduction tree as straight-line programs: what one worker adds up alone, how the
// workers of a host combine that, and how the hosts' sums are combined. Computed once; run for every slice of
// every step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lockstep/comm/host_group.h"
#include "lockstep/parallel/reduction_tree.h"

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

// Sums of trees out of arrays: array i holds the sum of nodes[i] at the start, and in the end array ends[r]
// that of roots[r]. `home` is where the sum ends whose tree it is of; else it is the first array of the tree.
// a + b == b + a bit for bit, so every worker can have a sum end where it likes.
struct Combination {
  std::vector<Addition> additions;
  std::vector<int> ends;
};
// The nodes cover each of the roots, left to right.
Combination plan_combination(std::span<const TreeNode> roots, std::span<const TreeNode> nodes, int home);

// What a worker adds up of an element for which it acts, on two levels: in its group, whose workers see each
// other's arrays, then over the groups. Every worker makes its own; those of a group that is a worker alone
// have nothing to add on the first level.
struct TwoLevelPlan {
  // Where a sum is found: one of the arrays in which a worker's own additions end.
  struct Place {
    int worker, array;
    bool operator==(const Place&) const = default;
  };

  // Of the group's workers, in the order of the tree.
  std::vector<Place> inside;
  // Over `inside`: end in the sums of the group's maximal nodes, each in one of those arrays.
  Combination group;
  // Over the sums of all groups, in the order of the tree; the total ends in the first array of this worker.
  std::vector<Addition> total;
  std::vector<int> groups;  // whose sum each of them is
  int begin = 0, end = 0;   // which are this worker's group's
  int home = 0;             // where the total ends
  int foreign() const { return static_cast<int>(groups.size()) - (end - begin); }
};
TwoLevelPlan plan_two_levels(int64_t micro_batches, const RankGroups& groups, int rank);

}  // namespace lockstep
