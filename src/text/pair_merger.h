// Byte-pair merging (Sennrich et al. 2016): of all neighbours that may merge, those of the lowest rank do,
// leftmost first, until none may.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep {

// `left` and `right`, side by side, become `result`. Lower ranks merge first.
struct Merge {
  int32_t left = 0, right = 0, result = 0;
  uint32_t rank = 0;
};

class MergeTable {
 public:
  struct Entry {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
    int32_t result = 0;
  };
  // Of several merges of a pair the last counts.
  explicit MergeTable(std::span<const Merge> merges);
  // nullptr: the two do not merge.
  const Entry* find(int32_t left, int32_t right) const {
    const uint64_t pair =
        static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    for (size_t slot = slot_of(pair);; slot = (slot + 1) & mask_) {
      const Entry& entry = entries_[slot];
      if (entry.pair == pair) return &entry;
      if (entry.pair == kNoPair) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  size_t slot_of(uint64_t pair) const { return static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> shift_); }

  std::vector<Entry> entries_;
  size_t mask_ = 0;
  int shift_ = 0;
};

// One thread's room for merging. n symbols take n^2 short steps where n is small, n log n where not.
class PairMerger {
 public:
  // Merges in place.
  void merge(const MergeTable& table, std::vector<int32_t>& symbols);

 private:
  void merge_few(const MergeTable& table, std::vector<int32_t>& symbols);
  void merge_many(const MergeTable& table, std::vector<int32_t>& symbols);

  struct Neighbours {
    int32_t previous = -1, next = -1;
  };
  struct Candidate {
    uint32_t rank;
    int32_t position, left, right, result;
  };
  struct Pair {
    uint32_t rank;
    int32_t result;  // -1: the two do not merge, and the rank is the highest
  };
  std::vector<Pair> pairs_;
  std::vector<Neighbours> neighbours_;
  std::vector<Candidate> heap_;
};

}  // namespace lockstep
