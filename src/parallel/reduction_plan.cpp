// Recursions over the reduction tree that write down its additions in order.
#include "parallel/reduction_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace lockstep {

namespace {

bool is_leaf(const TreeNode& node) {
  return node.end - node.begin == 1;
}

// Sums `node` up in `buffer`, using buffers above it as scratch. Leaf m is step m - first of the plan.
void plan_node(const TreeNode& node, int buffer, int64_t first, LocalPlan& plan) {
  plan.buffers = std::max(plan.buffers, buffer + 1);
  if (is_leaf(node)) {
    plan.steps[static_cast<size_t>(node.begin - first)] = {buffer, true, {}};
    return;
  }
  plan_node(left_child(node), buffer, first, plan);
  const TreeNode right = right_child(node);
  LocalStep& last = plan.steps[static_cast<size_t>(right.end - 1 - first)];
  if (is_leaf(right)) {
    last = {buffer, false, {}};
  } else {
    plan_node(right, buffer + 1, first, plan);
    last.carries.push_back({buffer, buffer + 1});
  }
}

// Returns the array that holds the sum of `node` after the additions.
int combine(const TreeNode& node, std::span<const TreeNode> nodes, int home,
            std::vector<Addition>& additions) {
  const auto found = std::find(nodes.begin(), nodes.end(), node);
  if (found != nodes.end()) return static_cast<int>(found - nodes.begin());
  int to = combine(left_child(node), nodes, home, additions);
  int from = combine(right_child(node), nodes, home, additions);
  if (from == home) std::swap(to, from);
  additions.push_back({to, from});
  return to;
}

}  // namespace

LocalPlan plan_local_sums(std::span<const TreeNode> nodes) {
  LocalPlan plan;
  if (nodes.empty()) return plan;
  const int64_t first = nodes.front().begin;
  plan.steps.resize(static_cast<size_t>(nodes.back().end - first));
  for (size_t i = 0; i < nodes.size(); ++i) plan_node(nodes[i], static_cast<int>(i), first, plan);
  return plan;
}

LocalPlan plan_running_sum(int64_t leaves) {
  LocalPlan plan{1, std::vector<LocalStep>(static_cast<size_t>(leaves))};
  plan.steps.front().keep = true;
  return plan;
}

std::vector<Addition> plan_combination(int64_t micro_batches, std::span<const TreeNode> nodes, int home) {
  std::vector<Addition> additions;
  const int end = combine({0, micro_batches}, nodes, home, additions);
  if (end != home)
    fail(ErrorKind::kInternal, fmt::format("reduction plan: no array {} among {}", home, nodes.size()));
  return additions;
}

}  // namespace lockstep
