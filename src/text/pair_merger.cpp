// Few symbols: a scan for the lowest rank at each merge. Many: a heap over a list.
#include "lockstep/text/pair_merger.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace lockstep {

namespace {
constexpr size_t kFew = 96;
}

MergeTable::MergeTable(std::span<const Merge> merges) {
  const size_t slots = std::bit_ceil(std::max<size_t>(2 * merges.size(), 16));
  entries_.resize(slots);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  for (const Merge& merge : merges) {
    const uint64_t pair =
        static_cast<uint64_t>(static_cast<uint32_t>(merge.left)) << 32 | static_cast<uint32_t>(merge.right);
    size_t slot = slot_of(pair);
    while (entries_[slot].pair != kNoPair && entries_[slot].pair != pair) slot = (slot + 1) & mask_;
    entries_[slot] = {pair, merge.rank, merge.result};
  }
}

void PairMerger::merge(const MergeTable& table, std::vector<int32_t>& symbols) {
  if (symbols.size() < 2) return;
  symbols.size() <= kFew ? merge_few(table, symbols) : merge_many(table, symbols);
}

void PairMerger::merge_few(const MergeTable& table, std::vector<int32_t>& symbols) {
  constexpr Pair kNone = {std::numeric_limits<uint32_t>::max(), -1};
  size_t n = symbols.size();
  pairs_.resize(n);
  const auto look_up = [&](size_t i) {
    const MergeTable::Entry* entry = i + 1 < n ? table.find(symbols[i], symbols[i + 1]) : nullptr;
    pairs_[i] = entry == nullptr ? kNone : Pair{entry->rank, entry->result};
  };
  for (size_t i = 0; i < n; ++i) look_up(i);
  while (true) {
    size_t at = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (pairs_[i].rank < pairs_[at].rank) at = i;
    if (pairs_[at].result < 0) break;
    symbols[at] = pairs_[at].result;
    const auto behind = static_cast<std::ptrdiff_t>(at) + 1, end = static_cast<std::ptrdiff_t>(n);
    std::copy(symbols.begin() + behind + 1, symbols.begin() + end, symbols.begin() + behind);
    std::copy(pairs_.begin() + behind + 1, pairs_.begin() + end, pairs_.begin() + behind);
    --n;
    look_up(at);
    if (at > 0) look_up(at - 1);
  }
  symbols.resize(n);
}

void PairMerger::merge_many(const MergeTable& table, std::vector<int32_t>& symbols) {
  const auto n = static_cast<int32_t>(symbols.size());
  neighbours_.resize(symbols.size());
  heap_.clear();
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto symbol = [&](int32_t i) -> int32_t& { return symbols[static_cast<size_t>(i)]; };
  const auto neighbours = [&](int32_t i) -> Neighbours& { return neighbours_[static_cast<size_t>(i)]; };
  const auto candidate = [&](int32_t left, int32_t right) {
    const MergeTable::Entry* entry = table.find(symbol(left), symbol(right));
    if (entry == nullptr) return false;
    heap_.push_back({entry->rank, left, symbol(left), symbol(right), entry->result});
    return true;
  };
  for (int32_t i = 0; i < n; ++i) neighbours(i) = {i - 1, i + 1 < n ? i + 1 : -1};
  for (int32_t i = 0; i + 1 < n; ++i) candidate(i, i + 1);
  std::ranges::make_heap(heap_, later);
  const auto push = [&](int32_t left, int32_t right) {
    if (candidate(left, right)) std::ranges::push_heap(heap_, later);
  };
  constexpr int32_t kGone = -1;
  while (!heap_.empty()) {
    std::ranges::pop_heap(heap_, later);
    const Candidate best = heap_.back();
    heap_.pop_back();
    const int32_t right = neighbours(best.position).next;
    // One of the two has merged with another neighbour since.
    if (right < 0 || symbol(best.position) != best.left || symbol(right) != best.right) continue;
    symbol(best.position) = best.result;
    symbol(right) = kGone;
    const int32_t next = neighbours(right).next, previous = neighbours(best.position).previous;
    neighbours(best.position).next = next;
    neighbours(right).next = -1;
    if (next >= 0) {
      neighbours(next).previous = best.position;
      push(best.position, next);
    }
    if (previous >= 0) push(previous, best.position);
  }
  std::erase(symbols, kGone);
}

}  // namespace lockstep
