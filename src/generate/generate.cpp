// Token by token, all texts that are not done.
#include "lockstep/generate/generate.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/generate/text_stream.h"

namespace lockstep {

namespace {

class Text {
 public:
  Text(size_t place, const std::vector<int32_t>& prompt, const GenerationOptions& options)
      : place_(place), tokens_(prompt), stream_(options.stops), options_(options) {}

  // Takes the next token from its logits; false: the text is done.
  bool take(std::span<float> logits, const Tokenizer& tokenizer, int64_t context) {
    const int32_t token =
        sample(logits, tokens_, options_.sampling, static_cast<int64_t>(place_), std::ssize(tokens_));
    tokens_.push_back(token);
    ++done_.tokens;
    if (std::ranges::find(options_.ends, token) != options_.ends.end()) return finish("end");
    put(stream_.push(tokenizer.decode(std::vector<int32_t>{token})));
    if (stream_.stopped()) return finish("stop");
    if (done_.tokens == options_.tokens) return finish("tokens");
    if (std::ssize(tokens_) > context) return finish("context");
    return true;
  }
  int32_t last() const { return tokens_.back(); }
  Generated result() && { return std::move(done_); }

 private:
  bool finish(const char* why) {
    done_.ended = why;
    put(stream_.finish());
    return false;
  }
  void put(const std::string& text) {
    done_.text += text;
    if (options_.show && !text.empty()) options_.show(place_, text);
  }

  size_t place_;
  std::vector<int32_t> tokens_;
  TextStream stream_;
  const GenerationOptions& options_;
  Generated done_;
};

}  // namespace

std::vector<Generated> generate(Decoder& decoder, const Tokenizer& tokenizer,
                                std::span<const std::vector<int32_t>> prompts,
                                const GenerationOptions& options) {
  require_sampling(options.sampling);
  const int64_t context = decoder.options().context;
  std::vector<Text> texts;
  std::vector<size_t> active;
  // Rows of the table that no token has are never drawn: behind the last one, or in between.
  const int64_t rows_drawn = std::min(decoder.vocabulary(), tokenizer.vocabulary_size());
  std::vector<size_t> without_token;
  for (int64_t id = 0; id < rows_drawn; ++id)
    if (!tokenizer.has(id)) without_token.push_back(static_cast<size_t>(id));
  const auto take = [&](size_t text, const Tensor& logits, int64_t row) {
    std::vector<float> values =
        logits.view({decoder.vocabulary()}, row * decoder.vocabulary()).to_vector<float>();
    values.resize(static_cast<size_t>(rows_drawn));
    for (const size_t id : without_token) values[id] = -std::numeric_limits<float>::infinity();
    if (texts[text].take(values, tokenizer, context)) active.push_back(text);
  };
  for (size_t i = 0; i < prompts.size(); ++i) texts.emplace_back(i, prompts[i], options);
  for (size_t i = 0; i < prompts.size() && options.tokens > 0; ++i) {
    std::vector<Decoder::Row> rows;
    for (const int32_t token : prompts[i]) rows.push_back({static_cast<int64_t>(i), token});
    take(i, decoder.last_logits(rows), 0);
  }
  while (!active.empty()) {
    std::vector<Decoder::Row> rows;
    for (const size_t i : active) rows.push_back({static_cast<int64_t>(i), texts[i].last()});
    const Tensor logits = decoder.logits(rows);
    const std::vector<size_t> before = std::exchange(active, {});
    for (size_t row = 0; row < before.size(); ++row) take(before[row], logits, static_cast<int64_t>(row));
  }
  std::vector<Generated> results;
  for (Text& text : texts) results.push_back(std::move(text).result());
  return results;
}

}  // namespace lockstep
