// Ownership, tree shape, and the plans of additions, for every number of micro-batches and workers up to 64.
#include "parallel/reduction_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <string>

#include "core/error.h"
#include "parallel/reduction_oracle.h"
#include "parallel/reduction_plan.h"

namespace lockstep {
namespace {

constexpr int64_t kMost = 64;

TEST(Ownership, CoversEveryMicroBatchExactlyOnceAndEvenly) {
  for (int64_t m = 1; m <= kMost; ++m) {
    for (int w = 1; w <= m; ++w) {
      int64_t next = 0;
      for (int r = 0; r < w; ++r) {
        const MicroBatchRange range = owned_micro_batches(m, r, w);
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.size(), m / w);
        EXPECT_LE(range.size(), (m + w - 1) / w);
        next = range.end;
      }
      EXPECT_EQ(next, m);
    }
  }
}

TEST(Ownership, RefusesRanksOutsideOfTheWorld) {
  EXPECT_THROW(owned_micro_batches(4, 2, 2), Error);
  EXPECT_THROW(owned_micro_batches(4, -1, 2), Error);
  EXPECT_THROW(owned_micro_batches(4, 0, 0), Error);
  EXPECT_THROW(owned_micro_batches(0, 0, 1), Error);
}

TEST(Tree, SplitsAtTheLargestPowerOfTwoBelowItsSize) {
  EXPECT_EQ(left_child({0, 7}), (TreeNode{0, 4}));
  EXPECT_EQ(right_child({0, 7}), (TreeNode{4, 7}));
  EXPECT_EQ(left_child({4, 7}), (TreeNode{4, 6}));
  EXPECT_EQ(left_child({0, 8}), (TreeNode{0, 4}));
  EXPECT_EQ(right_child({0, 9}), (TreeNode{8, 9}));
  for (int64_t n = 2; n <= 300; ++n) EXPECT_EQ(left_child({5, 5 + n}).end, 5 + testing::left_leaves(n));
}

TEST(Tree, HasNothingBelowALeaf) {
  EXPECT_THROW(left_child({3, 4}), Error);
  EXPECT_THROW(right_child({3, 4}), Error);
}

// Every node of the tree over [begin, end).
void all_nodes(int64_t begin, int64_t end, std::vector<TreeNode>& nodes) {
  nodes.push_back({begin, end});
  if (end - begin == 1) return;
  all_nodes(begin, begin + testing::left_leaves(end - begin), nodes);
  all_nodes(begin + testing::left_leaves(end - begin), end, nodes);
}

TEST(MaximalNodes, AreTheLargestTreeNodesInsideOfAnyRange) {
  for (int64_t m = 1; m <= kMost; ++m) {
    std::vector<TreeNode> tree;
    all_nodes(0, m, tree);
    for (int64_t begin = 0; begin < m; ++begin) {
      for (int64_t end = begin + 1; end <= m; ++end) {
        std::vector<TreeNode> inside;
        for (const TreeNode& node : tree) {
          if (begin <= node.begin && node.end <= end) inside.push_back(node);
        }
        std::vector<TreeNode> expected;
        for (const TreeNode& node : inside) {
          const bool maximal = std::none_of(inside.begin(), inside.end(), [&](const TreeNode& other) {
            return other != node && other.begin <= node.begin && node.end <= other.end;
          });
          if (maximal) expected.push_back(node);
        }
        std::sort(expected.begin(), expected.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
        const auto found = maximal_nodes(m, {begin, end});
        ASSERT_TRUE(found == expected) << m << " [" << begin << "," << end << ")";
        EXPECT_LE(found.size(), static_cast<size_t>(std::max(
                                    1, 2 * static_cast<int>(std::bit_width(static_cast<uint64_t>(m)) - 1))));
      }
    }
  }
}

TEST(MaximalNodes, OfAnEmptyRangeAreNoneAndOfAnImpossibleRangeAnError) {
  EXPECT_TRUE(maximal_nodes(8, {3, 3}).empty());
  EXPECT_THROW(maximal_nodes(8, {3, 2}), Error);
  EXPECT_THROW(maximal_nodes(8, {-1, 2}), Error);
  EXPECT_THROW(maximal_nodes(8, {0, 9}), Error);
}

// A commutative operation that tells every association apart, as addition of floats does, but without
// exceptions.
uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t h = (a + b) * 0x9e3779b97f4a7c15u ^ (a ^ b) * 0xc2b2ae3d27d4eb4fu;
  h ^= h >> 29;
  return h * 0xbf58476d1ce4e5b9u ^ a * b;
}

uint64_t leaf_value(int64_t m) {
  return mix(static_cast<uint64_t>(m) + 1, 77);
}

void apply(const LocalPlan& plan, size_t step_index, uint64_t leaf, std::vector<uint64_t>& buffers) {
  const LocalStep& step = plan.steps[step_index];
  uint64_t& sum = buffers[static_cast<size_t>(step.buffer)];
  sum = step.keep ? leaf : mix(sum, leaf);
  for (const Addition& carry : step.carries) {
    uint64_t& to = buffers[static_cast<size_t>(carry.to)];
    to = mix(to, buffers[static_cast<size_t>(carry.from)]);
  }
}

TEST(Plans, AddUpTheTreeForEveryNumberOfMicroBatchesWorkersAndHomes) {
  for (int64_t m = 1; m <= kMost; ++m) {
    const uint64_t expected = testing::tree_sum<uint64_t>(0, m, leaf_value, mix);
    for (int w = 1; w <= m; ++w) {
      std::vector<TreeNode> nodes;
      std::vector<uint64_t> sums;
      std::vector<int> homes;
      for (int r = 0; r < w; ++r) {
        const MicroBatchRange range = owned_micro_batches(m, r, w);
        const auto own = maximal_nodes(m, range);
        const LocalPlan plan = plan_local_sums(own);
        std::vector<uint64_t> buffers(static_cast<size_t>(plan.buffers), 0xdead);
        for (int64_t leaf = range.begin; leaf < range.end; ++leaf) {
          apply(plan, static_cast<size_t>(leaf - range.begin), leaf_value(leaf), buffers);
        }
        homes.push_back(static_cast<int>(nodes.size()));
        nodes.insert(nodes.end(), own.begin(), own.end());
        sums.insert(sums.end(), buffers.begin(), buffers.begin() + static_cast<std::ptrdiff_t>(own.size()));
      }
      for (const int home : homes) {
        std::vector<uint64_t> arrays = sums;
        for (const Addition& addition : plan_combination(m, nodes, home)) {
          arrays[static_cast<size_t>(addition.to)] =
              mix(arrays[static_cast<size_t>(addition.to)], arrays[static_cast<size_t>(addition.from)]);
        }
        ASSERT_EQ(arrays[static_cast<size_t>(home)], expected)
            << "M " << m << ", W " << w << ", home " << home;
      }
    }
  }
}

TEST(Plans, NeedOneBufferForOneMicroBatchOrAPairAndLogarithmicallyManyElse) {
  const auto buffers = [](int64_t micro_batches) {
    const TreeNode root{0, micro_batches};
    return plan_local_sums({&root, 1}).buffers;
  };
  EXPECT_EQ(buffers(1), 1);
  EXPECT_EQ(buffers(2), 1);
  EXPECT_EQ(buffers(3), 1);
  EXPECT_EQ(buffers(4), 2);
  EXPECT_EQ(buffers(8), 3);
  EXPECT_EQ(buffers(64), 6);
  EXPECT_EQ(buffers(1 << 16), 16);
}

TEST(Plans, OfARunningSumAddEveryLeafToOneBuffer) {
  const LocalPlan plan = plan_running_sum(3);
  EXPECT_EQ(plan.buffers, 1);
  ASSERT_EQ(plan.steps.size(), 3u);
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    EXPECT_EQ(plan.steps[i].buffer, 0);
    EXPECT_EQ(plan.steps[i].keep, i == 0);
    EXPECT_TRUE(plan.steps[i].carries.empty());
  }
}

TEST(Plans, RefuseAHomeThatDoesNotExist) {
  const std::vector<TreeNode> nodes = {{0, 2}, {2, 3}};
  EXPECT_THROW(plan_combination(3, nodes, 2), Error);
}

}  // namespace
}  // namespace lockstep
