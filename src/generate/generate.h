// Texts that go on from prompts.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/generate/decoder.h"
#include "lockstep/generate/sampler.h"
#include "lockstep/text/tokenizer.h"

namespace lockstep {

struct GenerationOptions {
  int64_t tokens = 128;  // at most so many behind each prompt, and no more than the model has positions for
  std::vector<std::string> stops = {};
  std::vector<int32_t> ends = {};  // tokens that end a text, and are not part of it
  SamplingOptions sampling = {};
  // Called with what the text of a prompt goes on with, as soon as it is there. Empty: nobody.
  std::function<void(size_t prompt, std::string_view text)> show = {};
};

struct Generated {
  std::string text;              // behind the prompt
  int64_t tokens = 0;            // drawn, an end among them
  const char* ended = "tokens";  // "tokens", "end", "stop", "context"
};

// All prompts (tokens, none of them empty) at the same time: one sequence of the decoder each, which must be
// new. A text does not depend on the other prompts, but for its place among them, nor on threads.
std::vector<Generated> generate(Decoder& decoder, const Tokenizer& tokenizer,
                                std::span<const std::vector<int32_t>> prompts,
                                const GenerationOptions& options);

}  // namespace lockstep
