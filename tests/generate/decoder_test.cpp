// Decoders: the logits of transformers, whatever is kept from calls before, beside whatever other texts.
#include "lockstep/generate/decoder.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/generate/generate.h"

namespace lockstep {
namespace {

using nlohmann::json;
using testing::bytes_of;
using testing::expect_rejection;
using Rows = std::vector<Decoder::Row>;

std::string given(const std::string& name) {
  return std::string(LOCKSTEP_EXCHANGE_FILES "/") + name;
}

Decoder decoder_of(const std::string& name, int64_t sequences, DType compute = DType::kF32) {
  const auto source = open_weights(given(name));
  return {source->options(), source->vocabulary(), compute, sequences,
          [&](const ParameterEntry& entry) { return source->values(entry); }};
}

class Families : public ::testing::TestWithParam<const char*> {
 protected:
  json golden = json::parse(bytes_of(given(GetParam()) + "/logits.json"));
  std::vector<std::vector<int32_t>> tokens = golden["tokens"].get<std::vector<std::vector<int32_t>>>();
};

TEST_P(Families, HaveTheLogitsOfTransformersInBothPrecisions) {
  const auto expected = golden["logits"].get<std::vector<double>>();
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    Decoder decoder = decoder_of(GetParam(), 2, compute);
    Rows rows;
    for (size_t text = 0; text < tokens.size(); ++text) {
      for (const int32_t token : tokens[text]) rows.push_back({static_cast<int64_t>(text), token});
    }
    const std::vector<double> logits = decoder.logits(rows).to_vector<double>();
    ASSERT_EQ(logits.size(), expected.size());
    const double bound = compute == DType::kF32 ? 1e-5 : 0.1;
    for (size_t i = 0; i < logits.size(); ++i)
      EXPECT_NEAR(logits[i], expected[i], bound * (1 + std::abs(expected[i]))) << i;
  }
}

TEST_P(Families, HaveTheSameBitsTokenByTokenBesideOtherTextsAndOnMoreThreads) {
  Decoder at_once = decoder_of(GetParam(), 1);
  Rows rows;
  for (const int32_t token : tokens[0]) rows.push_back({0, token});
  const std::vector<float> whole = at_once.logits(rows).to_vector<float>();
  set_threads(3);
  Decoder beside = decoder_of(GetParam(), 2);
  beside.last_logits(Rows{{1, tokens[1][0]}, {1, tokens[1][1]}});
  std::vector<float> parts;
  for (const int32_t token : tokens[0]) {
    const std::vector<float> logits = beside.logits(Rows{{1, 3}, {0, token}}).to_vector<float>();
    parts.insert(parts.end(), logits.begin() + std::ssize(logits) / 2, logits.end());
    if (beside.length(1) == beside.options().context) break;
  }
  set_threads(1);
  EXPECT_EQ(parts, whole);
  // Another text's tokens are not seen: a shorter one has logits of its own.
  Decoder last = decoder_of(GetParam(), 1);
  const std::vector<float> end = last.last_logits(rows).to_vector<float>();
  EXPECT_TRUE(std::equal(end.begin(), end.end(), whole.end() - std::ssize(end)));
}

INSTANTIATE_TEST_SUITE_P(Decoders, Families,
                         ::testing::Values("gpt2", "gpt2_older", "llama", "llama_older", "mistral", "qwen2",
                                           "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

TEST(DecoderRows, AreRefusedBeyondTheModel) {
  Decoder decoder = decoder_of("gpt2", 1);
  expect_rejection(ErrorKind::kData, {"token 11"}, [&] { decoder.logits(Rows{{0, 11}}); });
  decoder.logits(Rows(8, {0, 1}));
  expect_rejection(ErrorKind::kUsage, {"8 tokens"}, [&] { decoder.logits(Rows{{0, 1}}); });
  EXPECT_EQ(decoder.length(0), 8);
}

// Over the first tokens of the tokenizer of bytes: texts are control characters.
class Generation : public ::testing::Test {
 protected:
  std::vector<Generated> run(const std::vector<std::vector<int32_t>>& prompts,
                             const GenerationOptions& options, const std::string& model = "llama") {
    Decoder decoder = decoder_of(model, std::ssize(prompts));
    return generate(decoder, *make_byte_tokenizer(), prompts, options);
  }
};

TEST_F(Generation, IsTheSameTextForTheSameSeedOnAnyNumberOfThreads) {
  GenerationOptions options;
  options.tokens = 12;
  options.sampling.seed = 7;
  std::string shown;
  options.show = [&shown](size_t prompt, std::string_view text) {
    if (prompt == 0) shown += text;
  };
  const std::vector<Generated> both = run({{1, 2}, {3}}, options);
  EXPECT_EQ(shown, both[0].text);
  EXPECT_EQ(both[0].tokens, 12);
  EXPECT_STREQ(both[0].ended, "tokens");
  options.show = {};
  set_threads(3);
  const std::vector<Generated> alone = run({{1, 2}}, options);
  set_threads(1);
  EXPECT_EQ(alone[0].text, both[0].text);
  options.sampling.seed = 8;
  EXPECT_NE(run({{1, 2}}, options)[0].text, both[0].text);
}

// Some vocabularies leave ids out.
class EverySecond final : public Tokenizer {
 public:
  EverySecond() {
    for (int id = 0; id < 11; ++id)
      tokens_.push_back(id % 2 == 0 ? std::optional(std::string(1, static_cast<char>('a' + id)))
                                    : std::nullopt);
  }
  std::unique_ptr<TokenEncoder> encoder(SpecialSpelling) const override { return nullptr; }
};

TEST_F(Generation, DrawsNoIdThatTheTokenizerLeavesOut) {
  GenerationOptions options;
  options.sampling.seed = 3;
  for (const double temperature : {0.0, 1.0, 50.0}) {
    options.sampling.temperature = temperature;
    Decoder decoder = decoder_of("llama", 2);
    const std::vector<Generated> texts =
        generate(decoder, EverySecond(), std::vector<std::vector<int32_t>>{{2}, {4}}, options);
    for (const Generated& text : texts) EXPECT_EQ(text.text.size(), 32u);
  }
}

TEST_F(Generation, EndsWithItsTokensItsTextsAndThePositions) {
  GenerationOptions options;
  options.sampling.temperature = 0.0;
  const std::vector<Generated> free = run({{1, 2}}, options);
  EXPECT_STREQ(free[0].ended, "context");
  EXPECT_EQ(free[0].tokens, 31);  // one more than fit behind two, of 32 positions
  options.stops = {free[0].text.substr(2, 2)};
  const std::vector<Generated> stopped = run({{1, 2}}, options);
  EXPECT_STREQ(stopped[0].ended, "stop");
  EXPECT_EQ(stopped[0].text, free[0].text.substr(0, free[0].text.find(options.stops[0])));
  options.stops = {};
  options.ends = {static_cast<int32_t>(free[0].text[0])};
  const std::vector<Generated> ended = run({{1, 2}}, options);
  EXPECT_STREQ(ended[0].ended, "end");
  EXPECT_EQ(ended[0].text, "");
  EXPECT_EQ(ended[0].tokens, 1);
  options.tokens = 0;
  EXPECT_EQ(run({{1, 2}}, options)[0].tokens, 0);
}

}  // namespace
}  // namespace lockstep
