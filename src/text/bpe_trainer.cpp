// Counting pairs, and updating the counts where a merge changes them.
#include "lockstep/text/bpe_trainer.h"

#include <algorithm>
#include <queue>

#include "lockstep/text/byte_alphabet.h"

namespace lockstep {

namespace {

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Candidate {
  int64_t count;
  uint64_t pair;
  std::vector<int32_t> words;  // that held it when it became a candidate

  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

struct Word {
  std::vector<int32_t> symbols;
  int64_t count;
};

class Learner {
 public:
  explicit Learner(const PieceCounts& pieces) {
    std::vector<std::pair<std::string, std::string>> bytes;  // letters, byte
    for (int byte = 0; byte < 256; ++byte) {
      const std::string text(1, static_cast<char>(byte));
      bytes.emplace_back(to_byte_alphabet(text), text);
    }
    std::ranges::sort(bytes);  // UTF-8 sorts as code points do
    std::vector<int32_t> byte_ids(256);
    for (const auto& entry : bytes) {
      byte_ids[static_cast<unsigned char>(entry.second[0])] = static_cast<int32_t>(learned_.tokens.size());
      token(entry.second);
    }
    for (const auto& [piece, count] : pieces) {
      Word word{{}, count};
      for (const char byte : piece) word.symbols.push_back(byte_ids[static_cast<unsigned char>(byte)]);
      words_.push_back(std::move(word));
    }
    for (size_t i = 0; i < words_.size(); ++i) {
      const std::vector<int32_t>& symbols = words_[i].symbols;
      for (size_t k = 0; k + 1 < symbols.size(); ++k)
        change(pair_of(symbols[k], symbols[k + 1]), 1, static_cast<int32_t>(i));
    }
    add_candidates();
  }

  LearnedVocabulary learn(int64_t size) {
    while (std::ssize(learned_.tokens) < size && !candidates_.empty()) {
      Candidate best = candidates_.top();
      candidates_.pop();
      // Merges since then have taken places from it.
      if (const int64_t count = counts_[best.pair]; count != best.count) {
        best.count = count;
        candidates_.push(std::move(best));
        continue;
      }
      if (best.count < 1) break;
      const auto left = static_cast<int32_t>(best.pair >> 32), right = static_cast<int32_t>(best.pair);
      const int32_t result =
          token(learned_.tokens[static_cast<size_t>(left)] + learned_.tokens[static_cast<size_t>(right)]);
      learned_.merges.emplace_back(left, right);
      for (const int32_t word : best.words) merge(word, left, right, result);
      add_candidates();
    }
    return std::move(learned_);
  }

 private:
  // Two merges can make one token: "ab" + "c" and "a" + "bc".
  int32_t token(const std::string& bytes) {
    if (const auto known = ids_.find(bytes)) return *known;
    const auto id = static_cast<int32_t>(learned_.tokens.size());
    ids_.add(bytes, id);
    learned_.tokens.push_back(bytes);
    return id;
  }

  void change(uint64_t pair, int64_t sign, int32_t word) {
    counts_[pair] += sign * words_[static_cast<size_t>(word)].count;
    if (sign < 0) return;
    std::vector<int32_t>& places = changed_[pair];
    if (places.empty() || places.back() != word) places.push_back(word);
  }

  void merge(int32_t number, int32_t left, int32_t right, int32_t result) {
    std::vector<int32_t>& symbols = words_[static_cast<size_t>(number)].symbols;
    size_t kept = 0;
    for (size_t i = 0; i < symbols.size(); ++i) {
      if (symbols[i] != left || i + 1 == symbols.size() || symbols[i + 1] != right) {
        symbols[kept++] = symbols[i];
        continue;
      }
      if (kept > 0) {
        change(pair_of(symbols[kept - 1], left), -1, number);
        change(pair_of(symbols[kept - 1], result), 1, number);
      }
      if (i + 2 < symbols.size()) {
        change(pair_of(right, symbols[i + 2]), -1, number);
        change(pair_of(result, symbols[i + 2]), 1, number);
      }
      symbols[kept++] = result;
      ++i;
    }
    symbols.resize(kept);
  }

  void add_candidates() {
    for (auto& [pair, words] : changed_)
      if (const int64_t count = counts_[pair]; count > 0) candidates_.push({count, pair, std::move(words)});
    changed_.clear();
  }

  LearnedVocabulary learned_;
  TextIds ids_;
  std::vector<Word> words_;
  std::unordered_map<uint64_t, int64_t> counts_;
  std::unordered_map<uint64_t, std::vector<int32_t>> changed_;  // pairs that a merge has made, and where
  std::priority_queue<Candidate> candidates_;
};

}  // namespace

LearnedVocabulary learn_vocabulary(const PieceCounts& pieces, int64_t size) {
  return Learner(pieces).learn(size);
}

}  // namespace lockstep
