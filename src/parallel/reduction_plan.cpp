// Recursions over the reduction tree that write down its additions in order.
#include "lockstep/parallel/reduction_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "lockstep/core/error.h"

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

Combination plan_combination(std::span<const TreeNode> roots, std::span<const TreeNode> nodes, int home) {
  if (home < 0 || home >= static_cast<int>(nodes.size()))
    fail(ErrorKind::kInternal, fmt::format("reduction plan: no array {} among {}", home, nodes.size()));
  Combination made;
  for (const TreeNode& root : roots) made.ends.push_back(combine(root, nodes, home, made.additions));
  return made;
}

TwoLevelPlan plan_two_levels(int64_t micro_batches, const RankGroups& groups, int rank) {
  const int workers = groups.back().end;
  const auto owned = [&](int worker) { return owned_micro_batches(micro_batches, worker, workers); };
  TwoLevelPlan plan;
  std::vector<TreeNode> inside, outside;
  int home = 0;
  for (size_t number = 0; number < groups.size(); ++number) {
    const RankRange& group = groups[number];
    const std::vector<TreeNode> sums =
        maximal_nodes(micro_batches, {owned(group.begin).begin, owned(group.end - 1).end});
    if (group.contains(rank)) {
      plan.begin = static_cast<int>(outside.size());
      plan.end = plan.begin + static_cast<int>(sums.size());
      for (int worker = group.begin; worker < group.end; ++worker) {
        if (worker == rank) home = static_cast<int>(inside.size());
        const std::vector<TreeNode> theirs = maximal_nodes(micro_batches, owned(worker));
        for (int array = 0; array < static_cast<int>(theirs.size()); ++array) {
          plan.inside.push_back({worker, array});
        }
        inside.insert(inside.end(), theirs.begin(), theirs.end());
      }
      plan.group = plan_combination(sums, inside, home);
      const auto at_home = std::ranges::find(plan.group.ends, home);
      plan.home = plan.begin + static_cast<int>(at_home - plan.group.ends.begin());
    }
    outside.insert(outside.end(), sums.begin(), sums.end());
    plan.groups.insert(plan.groups.end(), sums.size(), static_cast<int>(number));
  }
  const TreeNode root{0, micro_batches};
  plan.total = plan_combination({&root, 1}, outside, plan.home).additions;
  return plan;
}

}  // namespace lockstep
