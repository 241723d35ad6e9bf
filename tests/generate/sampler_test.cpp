// Draws of tokens, and their bytes on the way to a screen.
#include "lockstep/generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "data/rejection.h"
#include "lockstep/generate/text_stream.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

int32_t drawn(std::vector<float> logits, const SamplingOptions& options, int64_t position = 0,
              const std::vector<int32_t>& before = {}, int64_t sequence = 0) {
  return sample(logits, before, options, sequence, position);
}

std::set<int32_t> all_drawn(const std::vector<float>& logits, const SamplingOptions& options) {
  std::set<int32_t> tokens;
  for (int64_t position = 0; position < 400; ++position) tokens.insert(drawn(logits, options, position));
  return tokens;
}

TEST(Sample, TakesTheLikeliestWithoutTemperature) {
  EXPECT_EQ(drawn({1, 3, 2}, {.temperature = 0.0}), 1);
  EXPECT_EQ(drawn({1, 3, 3}, {.temperature = 0.0}), 1);
  EXPECT_EQ(drawn({-INFINITY, -INFINITY}, {.temperature = 0.0}), 0);
}

TEST(Sample, DrawsAsOftenAsTheSoftmaxSays) {
  const std::vector<float> logits = {0.0f, 1.0f, -1.0f, 0.5f};
  for (const double temperature : {0.5, 1.0, 2.0}) {
    std::vector<double> counts(4), expected(4);
    constexpr int kDraws = 20000;
    for (int64_t i = 0; i < kDraws; ++i)
      ++counts[static_cast<size_t>(drawn(logits, {.temperature = temperature}, i))];
    double sum = 0.0;
    for (size_t i = 0; i < 4; ++i) sum += expected[i] = std::exp(logits[i] / temperature);
    for (size_t i = 0; i < 4; ++i) {
      const double p = expected[i] / sum;
      EXPECT_NEAR(counts[i] / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << temperature << " " << i;
    }
  }
}

TEST(Sample, IsAFunctionOfSeedSequenceAndPosition) {
  const std::vector<float> logits(1000, 0.0f);
  EXPECT_EQ(drawn(logits, {.seed = 1}, 5), drawn(logits, {.seed = 1}, 5));
  std::set<int32_t> different;
  for (const uint64_t seed : {1, 2}) {
    for (const int64_t position : {5, 6}) {
      for (const int64_t sequence : {0, 1})
        different.insert(drawn(logits, {.seed = seed}, position, {}, sequence));
    }
  }
  EXPECT_GE(different.size(), 7u);
}

TEST(Sample, DrawsFromTheLikeliestAlone) {
  const std::vector<float> logits = {0.0f, 2.0f, 1.9f, 0.1f};
  using Tokens = std::set<int32_t>;
  EXPECT_EQ(all_drawn(logits, {}), (Tokens{0, 1, 2, 3}));
  EXPECT_EQ(all_drawn(logits, {.top_k = 2}), (Tokens{1, 2}));
  EXPECT_EQ(all_drawn(logits, {.top_k = 9}), (Tokens{0, 1, 2, 3}));
  EXPECT_EQ(all_drawn(logits, {.top_p = 1e-9}), (Tokens{1}));
  // Shares: 0.44, 0.40, 0.07, 0.06: the token that crosses the bound is one of them.
  EXPECT_EQ(all_drawn(logits, {.top_p = 0.5}), (Tokens{1, 2}));
  EXPECT_EQ(all_drawn(logits, {.top_p = 0.9}), (Tokens{1, 2, 3}));
  EXPECT_EQ(all_drawn(logits, {.top_k = 2, .top_p = 0.5}), (Tokens{1}));
  EXPECT_EQ(all_drawn({0.0f, 0.0f, 0.0f}, {.top_k = 2}), (Tokens{0, 1}));
  EXPECT_EQ(all_drawn({0.0f, -INFINITY, 0.0f}, {}), (Tokens{0, 2}));
}

TEST(Sample, MakesWhatWasThereLessLikely) {
  const SamplingOptions options = {.temperature = 0.0, .repetition_penalty = 2.0};
  EXPECT_EQ(drawn({3, 2}, options), 0);
  EXPECT_EQ(drawn({3, 2}, options, 0, {0, 0, 0}), 1);  // 1.5 against 2, however often it was there
  EXPECT_EQ(drawn({-1, -1.5f}, options, 0, {0}), 1);
}

TEST(Sample, RefusesWhatIsNoDistribution) {
  expect_rejection(ErrorKind::kNumeric, {"token 1", "NaN"}, [] { drawn({0, NAN}, {}); });
  expect_rejection(ErrorKind::kUsage, {"temperature", "-1"}, [] { require_sampling({.temperature = -1}); });
  expect_rejection(ErrorKind::kUsage, {"temperature", "nan"}, [] { require_sampling({.temperature = NAN}); });
  expect_rejection(ErrorKind::kUsage, {"top-k", "-1"}, [] { require_sampling({.top_k = -1}); });
  expect_rejection(ErrorKind::kUsage, {"top-p", "0"}, [] { require_sampling({.top_p = 0}); });
  expect_rejection(ErrorKind::kUsage, {"repetition-penalty", "0"},
                   [] { require_sampling({.repetition_penalty = 0}); });
}

TEST(TextStream, ShowsWholeCharacters) {
  TextStream stream({});
  const std::string euro = "\xE2\x82\xAC", grin = "\xF0\x9F\x98\x80";
  EXPECT_EQ(stream.push("a" + euro.substr(0, 1)), "a");
  EXPECT_EQ(stream.push(euro.substr(1, 1)), "");
  EXPECT_EQ(stream.push(euro.substr(2) + grin.substr(0, 3)), euro);
  EXPECT_EQ(stream.push(grin.substr(3) + "b"), grin + "b");
  EXPECT_EQ(stream.push("\x80\xFF"), "\x80\xFF");  // will never be a character
  EXPECT_EQ(stream.push(grin.substr(0, 2)), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, ShowsNothingOfAStopText) {
  TextStream stream({"\n\nEnd", "##"});
  EXPECT_EQ(stream.push("one\n"), "one");
  EXPECT_EQ(stream.push("\ntwo\n\nE"), "\n\ntwo");
  EXPECT_EQ(stream.push("x#"), "\n\nEx");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push("#more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("more"), "");
  EXPECT_EQ(stream.finish(), "");
  TextStream first({"b", "ab"});
  EXPECT_EQ(first.push("xab"), "x");
  TextStream unfinished({"\n\n"});
  EXPECT_EQ(unfinished.push("x\n"), "x");
  EXPECT_EQ(unfinished.finish(), "\n");
}

}  // namespace
}  // namespace lockstep
