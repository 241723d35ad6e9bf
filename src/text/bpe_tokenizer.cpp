// Sections between special tokens -> normalized -> pieces -> a cache of pieces, or merging.
#include "lockstep/text/bpe_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/special_tokens.h"
#include "lockstep/text/split_pattern.h"
#include "lockstep/text/text_cuts.h"
#include "lockstep/text/utf8.h"

namespace lockstep {

namespace {

// Merging takes about fifty times a piece.
constexpr size_t kMostPieceBytes = size_t{16} << 20;

// What one thread has seen of short pieces: a table in which a piece has one place, and takes it from
// another.
class PieceCache {
 public:
  static constexpr size_t kMostBytes = 32, kMostTokens = 7;
  struct Entry {
    std::array<char, kMostBytes> piece;
    uint8_t bytes = 0, tokens = 0;
    std::array<int32_t, kMostTokens> ids;
  };

  PieceCache() : entries_(kEntries) {}
  // piece.size() in [1, kMostBytes].
  Entry& entry(std::string_view piece) {
    uint64_t hash = piece.size();
    size_t at = 0;
    for (; at + 8 <= piece.size(); at += 8) hash = mix(hash, word(piece.data() + at, 8));
    if (at < piece.size()) hash = mix(hash, word(piece.data() + at, piece.size() - at));
    return entries_[hash >> (64 - kBits)];
  }
  static bool holds(const Entry& entry, std::string_view piece) {
    return entry.bytes == piece.size() && std::memcmp(entry.piece.data(), piece.data(), piece.size()) == 0;
  }

 private:
  static constexpr int kBits = 15;
  static constexpr size_t kEntries = size_t{1} << kBits;

  static uint64_t word(const char* bytes, size_t count) {
    uint64_t value = 0;
    std::memcpy(&value, bytes, count);
    return value;
  }
  static uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
  }
  std::vector<Entry> entries_;
};

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeContents contents, bool encodes)
      : contents_(std::move(contents)), merges_(contents_.merges), encodes_(encodes) {
    describe();
    if (!encodes_) return;
    // A part that begins with a letter would be given a blank of its own by prefix_space.
    may_cut_ = !contents_.prefix_space && contents_.splits.size() == 1 &&
               is_known_pattern(contents_.splits[0].pattern) &&
               std::ranges::none_of(contents_.added, [](const AddedToken& added) {
                 return added.text.find_first_of(" \n") != std::string::npos;
               });
    for (const SplitRule& rule : contents_.splits) patterns_.emplace_back(rule.pattern, contents_.where);
    if (contents_.whole_pieces) {
      for (size_t id = 0; id < contents_.tokens.size(); ++id)
        if (contents_.tokens[id]) whole_.add(*contents_.tokens[id], static_cast<int32_t>(id));
    }
  }
  std::unique_ptr<TokenEncoder> encoder(SpecialSpelling spelling) const override;

  size_t cut(std::string_view text) const override { return may_cut_ ? last_cut(text) : 0; }

  const BpeContents& contents() const { return contents_; }
  const MergeTable& merges() const { return merges_; }
  const std::vector<SplitPattern>& patterns() const { return patterns_; }
  const TextIds& whole() const { return whole_; }

 private:
  void describe();

  BpeContents contents_;
  MergeTable merges_;
  std::vector<SplitPattern> patterns_;
  TextIds whole_;
  bool encodes_, may_cut_ = false;
};

void BpeTokenizer::describe() {
  tokens_ = contents_.tokens;
  for (const AddedToken& added : contents_.added) {
    const auto id = static_cast<size_t>(added.id);
    if (id >= tokens_.size()) tokens_.resize(id + 1);
    tokens_[id] = added.text;
    if (added.special) special_.push_back({added.text, added.id});
  }
  begin_ = contents_.begin;
  end_ = contents_.end;
  // Each text with its length before it: no two contents have one description.
  std::string all;
  const auto add = [&](std::string_view text) { all += fmt::format("{} {}\n", text.size(), text); };
  add(fmt::format("bpe {} {} {} {}", encodes_, contents_.whole_pieces,
                  static_cast<int>(contents_.normalization), contents_.prefix_space));
  for (const SplitRule& rule : contents_.splits) add(fmt::format("{} {}", rule.matches_only, rule.pattern));
  add("tokens");
  for (size_t id = 0; id < tokens_.size(); ++id)
    if (tokens_[id]) add(fmt::format("{} {}", id, *tokens_[id]));
  add("added");
  for (const AddedToken& added : contents_.added)
    add(fmt::format("{} {} {} {}", added.id, added.special, added.normalized, added.text));
  add("merges");
  for (const Merge& merge : contents_.merges)
    add(fmt::format("{} {} {} {}", merge.left, merge.right, merge.result, merge.rank));
  digest_ = digest_of_digests(all, {});
}

class BpeEncoder final : public TokenEncoder {
 public:
  BpeEncoder(const BpeTokenizer& tokenizer, SpecialSpelling spelling) : tokenizer_(tokenizer) {
    for (const AddedToken& added : tokenizer.contents().added) {
      if (added.special && spelling == SpecialSpelling::kText) continue;
      (added.normalized ? in_normalized_ : in_text_).add(added.text, added.id);
    }
    for (const SplitPattern& pattern : tokenizer.patterns()) matchers_.emplace_back(pattern);
  }

  void encode(std::string_view text, std::vector<int32_t>& ids) override {
    constexpr size_t kMostBytes = size_t{1} << 30;
    if (text.size() > kMostBytes) {
      fail(ErrorKind::kData,
           fmt::format("encode: a text of {} bytes: at most {} in one", text.size(), kMostBytes));
    }
    ids_ = &ids;
    const auto token = [&](int32_t id) { ids.push_back(id); };
    in_text_.visit(
        well_formed(text, replaced_),
        [&](std::string_view part) {
          in_normalized_.visit(
              normalized(part, tokenizer_.contents().normalization, normalized_),
              [&](std::string_view section) { encode_section(section); }, token);
        },
        token);
  }

 private:
  void encode_section(std::string_view section) {
    if (tokenizer_.contents().prefix_space && section[0] != ' ') {
      prefixed_.assign(" ").append(section);
      section = prefixed_;
    }
    cut(0, section, with_known_characters(section, known_));
  }

  // `known` is the piece in characters that the patterns know.
  void cut(size_t rule, std::string_view piece, std::string_view known) {
    if (rule == matchers_.size()) {
      encode_piece(piece);
      return;
    }
    const bool matches_only = tokenizer_.contents().splits[rule].matches_only;
    const auto part = [&](size_t begin, size_t end) {
      if (begin < end) cut(rule + 1, piece.substr(begin, end - begin), known.substr(begin, end - begin));
    };
    size_t done = 0;
    PatternMatcher::Match match;
    while (done < piece.size() && matchers_[rule].find(known, done, match)) {
      if (!matches_only) part(done, match.begin);
      part(match.begin, match.end);
      done = match.end;
    }
    if (!matches_only) part(done, piece.size());
  }

  void encode_piece(std::string_view piece) {
    const bool cached = piece.size() <= PieceCache::kMostBytes;
    PieceCache::Entry* entry = cached ? &cache_.entry(piece) : nullptr;
    if (cached && PieceCache::holds(*entry, piece)) {
      ids_->insert(ids_->end(), entry->ids.begin(), entry->ids.begin() + entry->tokens);
      return;
    }
    if (piece.size() > kMostPieceBytes) {
      fail(ErrorKind::kData,
           fmt::format("{} bytes without a place where the pattern cuts: at most {} are merged in one",
                       piece.size(), kMostPieceBytes));
    }
    symbols_.clear();
    if (const auto whole = tokenizer_.whole().find(piece)) {
      symbols_.push_back(*whole);
    } else {
      for (const char byte : piece)
        symbols_.push_back(tokenizer_.contents().byte_tokens[static_cast<unsigned char>(byte)]);
      merger_.merge(tokenizer_.merges(), symbols_);
    }
    ids_->insert(ids_->end(), symbols_.begin(), symbols_.end());
    if (!cached || symbols_.size() > PieceCache::kMostTokens) return;
    std::memcpy(entry->piece.data(), piece.data(), piece.size());
    entry->bytes = static_cast<uint8_t>(piece.size());
    entry->tokens = static_cast<uint8_t>(symbols_.size());
    std::ranges::copy(symbols_, entry->ids.begin());
  }

  const BpeTokenizer& tokenizer_;
  SpecialTokenSearch in_text_, in_normalized_;
  std::vector<PatternMatcher> matchers_;
  PieceCache cache_;
  PairMerger merger_;
  std::vector<int32_t>* ids_ = nullptr;
  std::vector<int32_t> symbols_;
  std::string replaced_, normalized_, prefixed_, known_;
};

std::unique_ptr<TokenEncoder> BpeTokenizer::encoder(SpecialSpelling spelling) const {
  if (!encodes_) {
    fail(ErrorKind::kUsage,
         contents_.where +
             ": has no merges, so that it only decodes: name the tokenizer.json, .tiktoken or "
             "vocab.bpe of this vocabulary");
  }
  return std::make_unique<BpeEncoder>(*this, spelling);
}

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeContents contents) {
  return std::make_unique<BpeTokenizer>(std::move(contents), true);
}

std::unique_ptr<Tokenizer> make_decoder(BpeContents contents) {
  return std::make_unique<BpeTokenizer>(std::move(contents), false);
}

std::optional<int32_t> usual_end_of_text(const std::vector<AddedToken>& added) {
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<EOT>"}) {
    const auto found = std::ranges::find(added, name, &AddedToken::text);
    if (found != added.end()) return found->id;
  }
  return std::nullopt;
}

}  // namespace lockstep
