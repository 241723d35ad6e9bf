// What all tokenizers share, and the one of bytes.
#include "lockstep/text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/core/error.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/special_tokens.h"
#include "lockstep/text/text_cuts.h"

namespace lockstep {

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialSpelling spelling) const {
  std::vector<int32_t> ids;
  encoder(spelling)->encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (!has(id))
      fail(ErrorKind::kData,
           fmt::format("decode: {} is no token of a vocabulary of {}", id, vocabulary_size()));
    text += *tokens_[static_cast<size_t>(id)];
  }
  return text;
}

std::optional<int32_t> Tokenizer::special_token(std::string_view text) const {
  const auto found = std::ranges::find(special_, text, &SpecialToken::text);
  return found == special_.end() ? std::nullopt : std::optional(found->id);
}

namespace {

constexpr int32_t kBytes = 256;

class ByteEncoder final : public TokenEncoder {
 public:
  explicit ByteEncoder(SpecialTokenSearch search) : search_(std::move(search)) {}
  void encode(std::string_view text, std::vector<int32_t>& ids) override {
    search_.visit(
        text,
        [&](std::string_view part) {
          for (const char byte : part) ids.push_back(static_cast<unsigned char>(byte));
        },
        [&](int32_t id) { ids.push_back(id); });
  }

 private:
  SpecialTokenSearch search_;
};

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (int32_t byte = 0; byte < kBytes; ++byte)
      tokens_.emplace_back(std::string(1, static_cast<char>(byte)));
    tokens_.emplace_back(kEndOfText);
    special_ = {{kEndOfText, kBytes}};
    end_ = kBytes;
    digest_ = digest_of_digests("bytes and <|endoftext|>", {});
  }
  std::unique_ptr<TokenEncoder> encoder(SpecialSpelling spelling) const override {
    SpecialTokenSearch search;
    if (spelling == SpecialSpelling::kToken) search.add(kEndOfText, kBytes);
    return std::make_unique<ByteEncoder>(std::move(search));
  }
  size_t cut(std::string_view text) const override { return last_cut(text); }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

}  // namespace lockstep
