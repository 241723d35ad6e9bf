// A corpus into a token file, on all threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "text/corpus.h"
#include "text/token_file.h"
#include "text/tokenizer.h"

namespace lockstep {

struct TokenizeOptions {
  CorpusOptions corpus;
  SpecialSpelling spelling = SpecialSpelling::kText;
  std::optional<int32_t> begin, end;  // tokens before and behind each document
  // Called now and then with the stored bytes that are done and those of all files.
  std::function<void(int64_t, int64_t)> progress;
};

// Threads are those of thread_pool(); the file does not depend on their number. Memory does not depend on the
// size of the corpus, but on that of a document where the tokenizer's pattern is none that is known. Errors
// as corpus_files(), CorpusReader and TokenFileWriter.
TokenFileDescription tokenize(const TokenizeOptions& options, const Tokenizer& tokenizer,
                              const std::string& output);

}  // namespace lockstep
