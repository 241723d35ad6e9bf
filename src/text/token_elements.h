// How tokens are stored in files, ours and others'.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace lockstep {

inline constexpr const char* kTokenLayoutAttribute = "token_layout";
inline constexpr int64_t kTokenLayout = 1;
// With bits that say which tokens count.
inline constexpr int64_t kCountedLayout = 2;
// The first integer of llm.c's files of tokens of GPT-2 (modded-nanogpt's too) and of Llama 3.
inline constexpr int32_t kGpt2Tokens = 20240520, kLlama3Tokens = 20240801;

// Of an id of such a vocabulary in our files.
inline constexpr int token_bytes(int64_t vocabulary_size) {
  return vocabulary_size <= 65536 ? 2 : 4;
}

// out.size() tokens that begin at `stored`, unsigned integers of `bytes` bytes (1, 2, 4 or 8), aligned or
// not. `first`: the number of the first in its file. Error (kData): one of them is 2^31 or more.
void copy_tokens(const std::byte* stored, int bytes, int64_t first, std::span<int32_t> out,
                 const std::string& path);

}  // namespace lockstep
