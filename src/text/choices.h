// Questions with several endings, of which a language model should find one likeliest: HellaSwag and the
// like.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/text/tokenizer.h"

namespace lockstep {

struct ChoiceQuestion {
  std::string place;  // "question 3", "line 3": from 1, for messages
  std::vector<int32_t> context;
  std::vector<std::vector<int32_t>> endings;  // two or more, none empty
  int64_t label = 0;                          // of the right one
};

// The content decides which format it is:
// - llm.c's: 256 int32 (magic 20240522, version 1, count, longest), then uint16 of each question: 65535, its
//   bytes, its number, label, number of endings, tokens of the context and these, of each ending the same.
//   Ids are those of GPT-2.
// - lines of JSON with "ctx", "endings" and "label" (a number, or one as a text), read through `tokenizer`,
// with
//   a blank before each ending, behind what the tokenizer puts before texts; plain, .gz or .zst.
// Errors: kData naming file, place and rule; kUsage for JSON without a tokenizer, and for llm.c's with one.
std::vector<ChoiceQuestion> read_choices(const std::string& path, const Tokenizer* tokenizer);

}  // namespace lockstep
