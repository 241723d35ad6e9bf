// Ownership of micro-batches and the shape of the reduction tree.
#include "lockstep/parallel/reduction_tree.h"

#include <fmt/format.h>

#include <bit>

#include "lockstep/core/error.h"

namespace lockstep {

namespace {

// First leaf of the right child: the left one has as many leaves as the largest power of two below the node's
// size.
int64_t split_of(const TreeNode& node) {
  const int64_t size = node.end - node.begin;
  if (size < 2) {
    fail(ErrorKind::kInternal,
         fmt::format("reduction tree: a leaf has no children: [{}, {})", node.begin, node.end));
  }
  return node.begin + static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(size - 1)));
}

void collect(const TreeNode& node, const MicroBatchRange& range, std::vector<TreeNode>& nodes) {
  if (node.end <= range.begin || range.end <= node.begin) return;
  if (range.begin <= node.begin && node.end <= range.end) {
    nodes.push_back(node);
    return;
  }
  collect(left_child(node), range, nodes);
  collect(right_child(node), range, nodes);
}

}  // namespace

MicroBatchRange owned_micro_batches(int64_t micro_batches, int rank, int world_size) {
  if (world_size < 1 || rank < 0 || rank >= world_size || micro_batches < 1) {
    fail(ErrorKind::kInternal, fmt::format("micro-batch ownership: rank {} of {} workers, {} micro-batches",
                                           rank, world_size, micro_batches));
  }
  return {rank * micro_batches / world_size, (rank + 1) * micro_batches / world_size};
}

std::vector<TreeNode> maximal_nodes(int64_t micro_batches, MicroBatchRange range) {
  if (range.begin < 0 || range.end < range.begin || micro_batches < range.end) {
    fail(ErrorKind::kInternal, fmt::format("reduction tree: [{}, {}) does not lie within {} micro-batches",
                                           range.begin, range.end, micro_batches));
  }
  std::vector<TreeNode> nodes;
  if (range.size() > 0) collect({0, micro_batches}, range, nodes);
  return nodes;
}

TreeNode left_child(const TreeNode& node) {
  return {node.begin, split_of(node)};
}
TreeNode right_child(const TreeNode& node) {
  return {split_of(node), node.end};
}

}  // namespace lockstep
