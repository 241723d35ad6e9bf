// Numbers of texts: a table for vocabularies, which are asked far more often than they grow.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

// Open addressing over one array of slots, the texts behind each other in another: a text that is not there
// costs one place in memory as a rule, where chains of nodes cost several.
class TextIds {
 public:
  // False where the text has a number already, which stays.
  bool add(std::string_view text, int32_t id) {
    if (2 * (entries_.size() + 1) > slots_.size()) grow();
    const size_t hash = hash_of(text);
    const size_t slot = slot_of(text, hash);
    if (slots_[slot].entry >= 0) return false;
    slots_[slot] = {tag_of(hash), static_cast<int32_t>(entries_.size())};
    entries_.push_back({texts_.size(), text.size(), id});
    texts_ += text;
    return true;
  }
  std::optional<int32_t> find(std::string_view text) const {
    if (slots_.empty()) return std::nullopt;
    const int32_t entry = slots_[slot_of(text, hash_of(text))].entry;
    return entry < 0 ? std::nullopt : std::optional(entries_[static_cast<size_t>(entry)].id);
  }
  int64_t size() const { return std::ssize(entries_); }
  bool empty() const { return entries_.empty(); }

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t entry = -1;  // there is none
  };
  struct Entry {
    size_t begin, bytes;
    int32_t id;
  };

  static size_t hash_of(std::string_view text) { return std::hash<std::string_view>()(text); }
  static uint32_t tag_of(size_t hash) { return static_cast<uint32_t>(hash >> 32); }
  std::string_view text_of(const Entry& entry) const {
    return std::string_view(texts_).substr(entry.begin, entry.bytes);
  }
  // Of the text, or the free one that it would take.
  size_t slot_of(std::string_view text, size_t hash) const {
    const size_t mask = slots_.size() - 1;
    for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
      const Slot& found = slots_[slot];
      if (found.entry < 0) return slot;
      if (found.tag == tag_of(hash) && text_of(entries_[static_cast<size_t>(found.entry)]) == text)
        return slot;
    }
  }
  void grow() {
    slots_.assign(slots_.empty() ? 16 : 4 * slots_.size(), {});
    for (size_t i = 0; i < entries_.size(); ++i) {
      const std::string_view text = text_of(entries_[i]);
      const size_t hash = hash_of(text);
      slots_[slot_of(text, hash)] = {tag_of(hash), static_cast<int32_t>(i)};
    }
  }

  std::vector<Slot> slots_;  // a power of two, at least half of them free
  std::vector<Entry> entries_;
  std::string texts_;
};

}  // namespace lockstep
