// The next token, drawn from logits.
#pragma once

#include <cstdint>
#include <span>

namespace lockstep {

struct SamplingOptions {
  double temperature = 1.0;         // divides logits; 0: the likeliest token, always
  int64_t top_k = 0;                // the likeliest k alone; 0: all
  double top_p = 1.0;               // of those the fewest likeliest that have this much of the probability
  double repetition_penalty = 1.0;  // tokens that were there: logits above 0 are divided by it, others times
                                    // it (Keskar et al. 2019, "CTRL")
  uint64_t seed = 0;
};

// Error (kUsage) naming the option that is out of its range.
void require_sampling(const SamplingOptions& options);

// A function of its arguments alone: the draw is Philox at (sequence, position). Changes the logits.
// `before`: the tokens of the sequence so far. Ties go to the smaller token. Error (kNumeric): a logit is not
// a number.
int32_t sample(std::span<float> logits, std::span<const int32_t> before, const SamplingOptions& options,
               int64_t sequence, int64_t position);

}  // namespace lockstep
