// Learns a byte-pair vocabulary from text (Sennrich et al. 2016), the same as Hugging Face's BpeTrainer does.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/corpus.h"
#include "text/special_tokens.h"

namespace lockstep {

using PieceCounts = std::unordered_map<std::string, int64_t, TextHash, std::equal_to<>>;

// Bytes of each token by its id, and the two tokens that each behind the first 256 was merged from.
struct LearnedVocabulary {
  std::vector<std::string> tokens;
  std::vector<std::pair<int32_t, int32_t>> merges;
};

// The 256 bytes, in the order of their letters (byte_alphabet.h), then the most frequent pair of neighbours
// again and again until there are `size` tokens or no pair is left. Of pairs that are equally frequent the
// one of the smaller ids comes first: the left one decides, then the right one. A pair that overlaps itself
// ("aaa") counts at each place.
LearnedVocabulary learn_vocabulary(const PieceCounts& pieces, int64_t size);

struct TokenizerTraining {
  CorpusOptions corpus;
  int64_t vocabulary_size = 0;   // with <|endoftext|>, whose id is the last
  std::string pattern = "gpt4";  // gpt2, or gpt4 in the form of Llama 3, which Hugging Face has for it
  // Called now and then with the stored bytes that are read and those of all files.
  std::function<void(int64_t, int64_t)> progress;
};

// Writes a tokenizer.json that Hugging Face's tokenizers read. Returns the size of the vocabulary, which is
// smaller than asked for where the text has no more pairs. Threads are those of thread_pool(); the result
// does not depend on them. Memory grows with the number of different pieces. Errors as corpus_files() and
// CorpusReader; kUsage for less than 257 tokens, or another pattern; kData where the file cannot be written.
int64_t train_tokenizer(const TokenizerTraining& training, const std::string& output);

}  // namespace lockstep
