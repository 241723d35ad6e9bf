// Pieces are counted on all threads, and what is learned from them is written as tokenizer.json.
#include <fmt/format.h>

#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>

#include "lockstep/core/error.h"
#include "lockstep/core/output_file.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/text/bpe_trainer.h"
#include "lockstep/text/byte_alphabet.h"
#include "lockstep/text/corpus_batches.h"
#include "lockstep/text/split_pattern.h"
#include "lockstep/text/text_cuts.h"
#include "lockstep/text/tokenizer.h"
#include "lockstep/text/utf8.h"

namespace lockstep {

using nlohmann::ordered_json;

namespace {

constexpr int64_t kMostLearned = int64_t{1} << 24;

// Adds the pieces of a text.
void count_pieces(std::string_view text, const PatternMatcher& matcher, PieceCounts& counts) {
  std::string replaced, known_characters;
  text = well_formed(text, replaced);
  const std::string_view known = with_known_characters(text, known_characters);
  const auto count = [&](size_t begin, size_t end) {
    if (begin == end) return;
    const std::string_view piece = text.substr(begin, end - begin);
    const auto found = counts.find(piece);
    if (found == counts.end()) {
      counts.emplace(piece, 1);
    } else {
      ++found->second;
    }
  };
  size_t done = 0;
  PatternMatcher::Match match;
  while (done < text.size() && matcher.find(known, done, match)) {
    count(done, match.begin);
    count(match.begin, match.end);
    done = match.end;
  }
  count(done, text.size());
}

PieceCounts count_corpus(const TokenizerTraining& training, const SplitPattern& pattern) {
  PieceCounts all;
  std::mutex mutex;
  for_each_batch(
      training.corpus, [](std::string_view text) { return last_cut(text); },
      [&](const std::vector<TextChunk>& chunks) {
        thread_pool().run(std::ssize(chunks), [&](int64_t i) {
          const PatternMatcher matcher(pattern);
          PieceCounts counts;
          visit_documents(chunks[static_cast<size_t>(i)], training.corpus, [&](const TextDocument& document) {
            count_pieces(document.text, matcher, counts);
          });
          const std::lock_guard lock(mutex);
          for (const auto& [piece, count] : counts) all[piece] += count;
        });
      },
      training.progress);
  return all;
}

ordered_json pre_tokenizer_json(const std::string& pattern) {
  const bool gpt2 = pattern == "gpt2";
  const ordered_json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", gpt2}};
  if (gpt2) return bytes;
  const ordered_json split = {{"type", "Split"},
                              {"pattern", {{"Regex", known_pattern("llama3")}}},
                              {"behavior", "Isolated"},
                              {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", ordered_json::array({split, bytes})}};
}

ordered_json tokenizer_json(const LearnedVocabulary& learned, const std::string& pattern) {
  ordered_json vocabulary = ordered_json::object(), merges = ordered_json::array();
  std::vector<std::string> letters;
  // Looking each key up, as operator[] would, takes quadratic time in an ordered object.
  auto& entries = vocabulary.get_ref<ordered_json::object_t&>();
  for (const std::string& token : learned.tokens) {
    letters.push_back(to_byte_alphabet(token));
    entries.Container::emplace_back(letters.back(), entries.size());
  }
  for (const auto& [left, right] : learned.merges)
    merges.push_back(
        ordered_json::array({letters[static_cast<size_t>(left)], letters[static_cast<size_t>(right)]}));
  const ordered_json end = {{"id", learned.tokens.size()},
                            {"content", kEndOfText},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false},
                            {"special", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", ordered_json::array({end})},
          {"normalizer", nullptr},
          {"pre_tokenizer", pre_tokenizer_json(pattern)},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", std::move(vocabulary)},
            {"merges", std::move(merges)}}}};
}

}  // namespace

int64_t train_tokenizer(const TokenizerTraining& training, const std::string& output) {
  if (training.pattern != "gpt2" && training.pattern != "gpt4")
    fail(ErrorKind::kUsage, fmt::format("pattern \"{}\": choose gpt2 or gpt4", training.pattern));
  if (training.vocabulary_size < 257 || training.vocabulary_size > kMostLearned) {
    fail(ErrorKind::kUsage, fmt::format("a vocabulary of {}: at least 257 (256 bytes and {}), at most {}",
                                        training.vocabulary_size, kEndOfText, kMostLearned));
  }
  require_replaceable(output, "is no vocabulary", [&] {
    open_tokenizer({.path = std::filesystem::absolute(output).string()});  // "bytes" is none of files
    return true;
  });
  const SplitPattern pattern(known_pattern(training.pattern == "gpt2" ? "gpt2" : "llama3"), training.pattern);
  const PieceCounts pieces = count_corpus(training, pattern);
  if (pieces.empty()) fail(ErrorKind::kData, output + ": not written: there is no text");
  const LearnedVocabulary learned = learn_vocabulary(pieces, training.vocabulary_size - 1);
  replace_file(output, tokenizer_json(learned, training.pattern).dump(2) + "\n", ErrorKind::kData);
  return std::ssize(learned.tokens) + 1;
}

}  // namespace lockstep
