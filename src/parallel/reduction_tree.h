// Who computes which micro-batch, and the fixed binary tree over them in which everything is summed.
//
// The tree over M leaves splits at the largest power of two below M (the Merkle-tree rule, RFC 6962),
// recursively.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

// Micro-batches [begin, end).
struct MicroBatchRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};
// Worker r of W owns [r*M/W, (r+1)*M/W).
MicroBatchRange owned_micro_batches(int64_t micro_batches, int rank, int world_size);

// A node of the tree: the sum of leaves [begin, end).
struct TreeNode {
  int64_t begin = 0, end = 0;
  bool operator==(const TreeNode&) const = default;
};
// The maximal tree nodes inside a range, left to right: what its owner can add up alone. At most 2*log2(M).
std::vector<TreeNode> maximal_nodes(int64_t micro_batches, MicroBatchRange range);
// [begin, end) of the left child; Error (kInternal) for a leaf.
TreeNode left_child(const TreeNode& node);
TreeNode right_child(const TreeNode& node);

}  // namespace lockstep
