// Ownership, tree shape, and the plans of additions, for every number of micro-batches and workers up to 64.
#include "lockstep/parallel/reduction_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <string>

#include "lockstep/core/error.h"
#include "lockstep/parallel/reduction_plan.h"
#include "parallel/reduction_oracle.h"

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

void apply(const std::vector<Addition>& additions, std::vector<uint64_t>& arrays) {
  for (const Addition& addition : additions) {
    uint64_t& to = arrays[static_cast<size_t>(addition.to)];
    to = mix(to, arrays[static_cast<size_t>(addition.from)]);
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
        const TreeNode root{0, m};
        const Combination combination = plan_combination({&root, 1}, nodes, home);
        apply(combination.additions, arrays);
        ASSERT_EQ(combination.ends, std::vector<int>{home});
        ASSERT_EQ(arrays[static_cast<size_t>(home)], expected)
            << "M " << m << ", W " << w << ", home " << home;
      }
    }
  }
}

// Groups of the sizes that the bits of `cuts` say: a group ends behind worker r where bit r is set.
RankGroups cut_groups(int workers, uint64_t cuts) {
  RankGroups groups = {{0, 0}};
  for (int rank = 0; rank < workers; ++rank) {
    ++groups.back().end;
    if ((cuts >> rank & 1) != 0 && rank + 1 < workers) groups.push_back({rank + 1, rank + 1});
  }
  return groups;
}

// What the owner of an element ends up with, when everybody does what its plan says: `sums` are the arrays of
// each worker's local sums.
uint64_t total_of(int64_t m, const RankGroups& groups, int owner,
                  const std::vector<std::vector<uint64_t>>& sums) {
  std::vector<uint64_t> outside;
  const TwoLevelPlan plan = plan_two_levels(m, groups, owner);
  for (size_t group = 0; group < groups.size(); ++group) {
    const int actor = delegate_of(groups, group, owner);
    EXPECT_TRUE(groups[group].contains(actor));
    EXPECT_EQ(groups[group].contains(owner), actor == owner);
    const TwoLevelPlan theirs = plan_two_levels(m, groups, actor);
    std::vector<uint64_t> inside;
    for (const TwoLevelPlan::Place& place : theirs.inside) {
      EXPECT_TRUE(groups[group].contains(place.worker));
      inside.push_back(sums[static_cast<size_t>(place.worker)][static_cast<size_t>(place.array)]);
    }
    apply(theirs.group.additions, inside);
    for (const int end : theirs.group.ends) {
      EXPECT_EQ(plan.groups[outside.size()], static_cast<int>(group));
      outside.push_back(inside[static_cast<size_t>(end)]);
    }
    if (actor != owner) continue;
    EXPECT_EQ(plan.end, static_cast<int>(outside.size()));
    const int home = plan.group.ends[static_cast<size_t>(plan.home - plan.begin)];
    EXPECT_EQ(plan.inside[static_cast<size_t>(home)], (TwoLevelPlan::Place{owner, 0}));
  }
  EXPECT_EQ(outside.size(), plan.groups.size());
  apply(plan.total, outside);
  return outside[static_cast<size_t>(plan.home)];
}

TEST(Plans, OnTwoLevelsAddUpTheTreeForEveryLayoutOfHosts) {
  for (int64_t m = 1; m <= 24; ++m) {
    const uint64_t expected = testing::tree_sum<uint64_t>(0, m, leaf_value, mix);
    for (int w = 1; w <= m; ++w) {
      std::vector<std::vector<uint64_t>> sums;
      for (int rank = 0; rank < w; ++rank) {
        const MicroBatchRange owned = owned_micro_batches(m, rank, w);
        std::vector<uint64_t>& own = sums.emplace_back();
        for (const TreeNode& node : maximal_nodes(m, owned)) {
          own.push_back(testing::tree_sum<uint64_t>(
              node.begin, node.end, [&](int64_t leaf) { return leaf_value(leaf); }, mix));
        }
      }
      // Every way to cut up to 6 workers into hosts; for more one host, hosts of one, of equal size, and
      // unequal ones.
      std::vector<uint64_t> cuts = {
          0,          ~uint64_t{0}, 0xaaaaaaaa, 0x88888888,
          0x24924924, 0x01,         0x12345678, testing::random_bits(static_cast<uint64_t>(100 * m + w))};
      for (uint64_t all = 0; w <= 6 && all < uint64_t{1} << w; ++all) cuts.push_back(all);
      for (const uint64_t cut : cuts) {
        const RankGroups groups = cut_groups(w, cut);
        for (int owner = 0; owner < w; ++owner) {
          ASSERT_EQ(total_of(m, groups, owner, sums), expected)
              << "M " << m << ", W " << w << ", cuts " << cut << ", owner " << owner;
        }
      }
    }
  }
}

// Of hosts whose micro-batches are a whole tree: one sum a host travels, whatever the number of its workers.
TEST(Plans, OnTwoLevelsSendOneSumAHostThatOwnsATree) {
  for (const int workers_a_host : {1, 2, 4}) {
    const int workers = 2 * workers_a_host;
    const RankGroups groups = {{0, workers_a_host}, {workers_a_host, workers}};
    for (int rank = 0; rank < workers; ++rank) {
      const TwoLevelPlan plan = plan_two_levels(16, groups, rank);
      EXPECT_EQ(plan.groups, (std::vector<int>{0, 1}));
      EXPECT_EQ(plan.foreign(), 1);
      EXPECT_EQ(std::ssize(plan.group.additions), workers_a_host - 1);
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
  const TreeNode root{0, 3};
  EXPECT_THROW(plan_combination({&root, 1}, nodes, 2), Error);
}

}  // namespace
}  // namespace lockstep
