// Byte-pair encoding over bytes: text is cut into pieces by patterns, and the bytes of a piece are merged.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/text/normalization.h"
#include "lockstep/text/pair_merger.h"
#include "lockstep/text/tokenizer.h"

namespace lockstep {

// A token beside the merges, found in the text before it is cut into pieces.
struct AddedToken {
  std::string text;
  int32_t id = 0;
  bool special = true;      // false: a token even where special ones are letters
  bool normalized = false;  // looked for in the normalized text
};

struct SplitRule {
  std::string pattern;
  bool matches_only = false;  // what lies between matches is dropped, not a piece
};

// All that a vocabulary is, from whatever file.
struct BpeContents {
  std::string where;                               // path, for messages
  std::vector<std::optional<std::string>> tokens;  // bytes of each id, without the added ones
  std::array<int32_t, 256> byte_tokens{};          // what merging begins with
  std::vector<Merge> merges;
  bool whole_pieces = false;  // a piece that is a token is taken unmerged (`ignore_merges`, and tiktoken)
  Normalization normalization = Normalization::kNone;
  bool prefix_space = false;      // a section of text that does not begin with a blank is given one
  std::vector<SplitRule> splits;  // each cuts the pieces of the one before
  std::vector<AddedToken> added;
  std::optional<int32_t> begin, end;
};

// Error (kData): two tokens of one id that differ, a pattern that does not compile.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeContents contents);

// A token that decodes alone. `begin` and `end` as above.
std::unique_ptr<Tokenizer> make_decoder(BpeContents contents);

// Of these names the one that ends a text, where one of them is an added token.
std::optional<int32_t> usual_end_of_text(const std::vector<AddedToken>& added);

}  // namespace lockstep
