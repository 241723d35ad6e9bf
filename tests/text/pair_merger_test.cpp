// Both ways of merging against the definition.
#include "text/pair_merger.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace lockstep {
namespace {

// The definition: look for the lowest rank, leftmost, and merge; from the beginning each time.
std::vector<int32_t> merged(const std::vector<Merge>& merges, std::vector<int32_t> symbols) {
  std::map<std::pair<int32_t, int32_t>, Merge> table;
  for (const Merge& merge : merges) table[{merge.left, merge.right}] = merge;
  while (true) {
    const Merge* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = table.find({symbols[i], symbols[i + 1]});
      if (found == table.end() || (best != nullptr && found->second.rank >= best->rank)) continue;
      best = &found->second;
      at = i;
    }
    if (best == nullptr) return symbols;
    symbols[at] = best->result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(PairMerger, MergesAsDefinedWhateverTheLength) {
  std::mt19937 random(1);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  PairMerger merger;
  for (int round = 0; round < 200; ++round) {
    // Ranks that repeat, as those of tokens that are made in two ways.
    std::vector<Merge> merges;
    const int32_t letters = 2 + below(4);
    for (int32_t next = letters; next < letters + 30; ++next)
      merges.push_back({below(next), below(next), next, static_cast<uint32_t>(below(12))});
    const MergeTable table(merges);
    for (const int32_t length : {0, 1, 2, 3, 20, 95, 96, 97, 98, 300}) {
      std::vector<int32_t> symbols;
      for (int32_t i = 0; i < length; ++i) symbols.push_back(below(letters));
      const std::vector<int32_t> expected = merged(merges, symbols);
      merger.merge(table, symbols);
      ASSERT_EQ(symbols, expected) << "round " << round << ", " << length << " symbols";
    }
  }
}

TEST(MergeTable, TheLastOfSeveralMergesOfAPairCounts) {
  const std::vector<Merge> merges = {{1, 2, 3, 0}, {1, 2, 4, 1}};
  const MergeTable table(merges);
  ASSERT_NE(table.find(1, 2), nullptr);
  EXPECT_EQ(table.find(1, 2)->result, 4);
  EXPECT_EQ(table.find(2, 1), nullptr);
}

}  // namespace
}  // namespace lockstep
