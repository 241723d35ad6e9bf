// Penalty, temperature, top-k, top-p, draw: in the order of Hugging Face's transformers.
#include "lockstep/generate/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/kernels/math/elementary.h"

namespace lockstep {

namespace {

void penalize(std::span<float> logits, std::span<const int32_t> before, double penalty) {
  if (penalty == 1.0) return;
  std::vector<int32_t> seen(before.begin(), before.end());
  std::ranges::sort(seen);
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  const auto factor = static_cast<float>(penalty);
  for (const int32_t token : seen) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0.0f ? logit / factor : logit * factor;
  }
}

}  // namespace

void require_sampling(const SamplingOptions& options) {
  const auto require = [](bool fulfilled, const char* option, const char* rule, auto value) {
    if (!fulfilled) fail(ErrorKind::kUsage, fmt::format("{}: must be {}, got {}", option, rule, value));
  };
  require(options.temperature >= 0.0 && options.temperature <= 100.0, "temperature", "in [0, 100]",
          options.temperature);
  require(options.top_k >= 0, "top-k", "at least 0", options.top_k);
  require(options.top_p > 0.0 && options.top_p <= 1.0, "top-p", "in (0, 1]", options.top_p);
  require(options.repetition_penalty > 0.0 && options.repetition_penalty <= 100.0, "repetition-penalty",
          "in (0, 100]", options.repetition_penalty);
}

int32_t sample(std::span<float> logits, std::span<const int32_t> before, const SamplingOptions& options,
               int64_t sequence, int64_t position) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]))
      fail(ErrorKind::kNumeric, fmt::format("generate: the logit of token {} is NaN", i));
  }
  penalize(logits, before, options.repetition_penalty);
  const auto likelier = [&logits](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::vector<int32_t> tokens(logits.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  const int32_t best = *std::ranges::min_element(tokens, likelier);
  if (options.temperature == 0.0) return best;
  const bool cut = options.top_k > 0 && options.top_k < std::ssize(tokens);
  if (cut) {
    std::partial_sort(tokens.begin(), tokens.begin() + options.top_k, tokens.end(), likelier);
    tokens.resize(static_cast<size_t>(options.top_k));
  } else if (options.top_p < 1.0) {
    std::ranges::sort(tokens, likelier);
  }
  // In the order of the tokens, one by one: the same bits everywhere.
  std::vector<double> shares(tokens.size());
  double sum = 0.0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const float below = logits[static_cast<size_t>(tokens[i])] - logits[static_cast<size_t>(best)];
    shares[i] = math::exp(static_cast<float>(below / options.temperature));
    sum += shares[i];
  }
  if (options.top_p < 1.0) {
    double kept = 0.0;
    size_t count = 0;
    while (count < shares.size() && kept < options.top_p * sum) kept += shares[count++];
    shares.resize(count);
    sum = kept;
  }
  const PhiloxBlock block = philox(philox_key(options.seed, RandomPurpose::kGeneration),
                                   {static_cast<uint32_t>(position), static_cast<uint32_t>(sequence), 0, 0});
  double rest = uniform_double(block.r[0], block.r[1]) * sum;
  size_t chosen = 0;
  while (chosen + 1 < shares.size() && rest >= shares[chosen]) rest -= shares[chosen++];
  while (chosen > 0 && shares[chosen] == 0.0) --chosen;  // rounding alone leads to one that has no share
  return tokens[chosen];
}

}  // namespace lockstep
