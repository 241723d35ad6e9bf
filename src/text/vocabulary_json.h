// What tokenizer.json and GPT-2's pair of files have in common: ids by spelling in the byte alphabet, merges.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "lockstep/text/bpe_tokenizer.h"
#include "lockstep/text/special_tokens.h"

namespace lockstep {

// Ids are counted in 32 bits, and a table of them is made: more is no vocabulary of anybody.
inline constexpr int64_t kMostTokens = int64_t{1} << 22;

class VocabularyBuilder {
 public:
  // Fills tokens, byte_tokens and merges of `contents`.
  VocabularyBuilder(BpeContents& contents, std::string where)
      : contents_(contents), where_(std::move(where)) {}
  // An object spelling -> id.
  void add_ids(const nlohmann::json& ids, const std::string& where);
  // "left right", in the order of rank. Error (kData): not two, or a token that has no id.
  void add_merge(std::string_view line, const std::string& where);
  void add_merge(std::string_view left, std::string_view right, const std::string& where);
  // Error (kData): a byte without a token.
  void finish();
  std::optional<int32_t> id(std::string_view spelling) const;

 private:
  BpeContents& contents_;
  std::string where_;
  TextIds ids_;
};

}  // namespace lockstep
