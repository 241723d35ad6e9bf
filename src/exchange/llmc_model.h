// Model files of llm.c (https://github.com/karpathy/llm.c): GPT-2 alone.
#pragma once

#include <cstdint>

namespace lockstep {

inline constexpr int32_t kLlmcModelMagic = 20240326;

}  // namespace lockstep
