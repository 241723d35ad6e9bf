// Text to tokens and back: one interface over the vocabularies that people have.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

// A token that stands for no text of its own, such as <|endoftext|>.
struct SpecialToken {
  std::string text;
  int32_t id = 0;
};
// What stands between documents where a vocabulary does not say otherwise.
inline constexpr const char* kEndOfText = "<|endoftext|>";

// What a special token's spelling in a text is: the token (as `encode` of Hugging Face has it), or letters
// like all others (as `encode_ordinary` of tiktoken), which is what text of strangers should be.
enum class SpecialSpelling { kToken, kText };

// One thread's way to encode: it keeps what it has learned of frequent pieces. Ends before its tokenizer.
class TokenEncoder {
 public:
  TokenEncoder() = default;
  TokenEncoder(const TokenEncoder&) = delete;
  TokenEncoder& operator=(const TokenEncoder&) = delete;
  virtual ~TokenEncoder() = default;
  // Appends the tokens of a text: nothing is put before or behind it. Malformed UTF-8 is read as U+FFFD,
  // except by the tokenizer of bytes.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids) = 0;
};

// Any number of threads may use a tokenizer.
class Tokenizer {
 public:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  virtual ~Tokenizer() = default;

  // Error (kUsage) for a vocabulary that only decodes.
  virtual std::unique_ptr<TokenEncoder> encoder(SpecialSpelling spelling) const = 0;
  std::vector<int32_t> encode(std::string_view text,
                              SpecialSpelling spelling = SpecialSpelling::kToken) const;
  // The bytes of the tokens, one behind the other; special ones by their spelling. Error (kData): no such
  // token.
  std::string decode(std::span<const int32_t> ids) const;
  // The last place inside of `text` where it may be cut in two whose tokens, one behind the other, are those
  // of the whole, whatever follows it; 0: none that is known. Long documents are encoded in parts by it.
  virtual size_t cut(std::string_view) const { return 0; }

  // Whether there is a token of this id; some vocabularies leave ids out.
  bool has(int64_t id) const {
    return id >= 0 && id < vocabulary_size() && tokens_[static_cast<size_t>(id)].has_value();
  }
  // The largest id + 1.
  int64_t vocabulary_size() const { return std::ssize(tokens_); }
  const std::vector<SpecialToken>& special_tokens() const { return special_; }
  std::optional<int32_t> special_token(std::string_view text) const;
  // What stands before and behind a document where its tokenizer says so: <|begin_of_text|>, <|endoftext|>.
  std::optional<int32_t> begin_of_text() const { return begin_; }
  std::optional<int32_t> end_of_text() const { return end_; }
  // 32 hex digits of XXH3-128 over all that decides about ids: equal digests, equal ids, from whatever files.
  const std::string& digest() const { return digest_; }

 protected:
  // The bytes of each id; nullopt: there is no such token.
  std::vector<std::optional<std::string>> tokens_;
  std::vector<SpecialToken> special_;
  std::optional<int32_t> begin_, end_;
  std::string digest_;
};

// 256 bytes, and <|endoftext|> as 256. Round trips are exact for any bytes.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

struct TokenizerOptions {
  // "bytes"; a file: tokenizer.json (Hugging Face), .tiktoken (Llama 3's tokenizer.model too), vocab.bpe or
  // merges.txt with encoder.json or vocab.json beside it, tokenizer.bin (llm.c); or a directory with one of
  // them. The content of a file decides, not its name.
  std::string path;
  // How .tiktoken text is cut into pieces, a name of known_pattern(); empty: known from the vocabulary's
  // size.
  std::string pattern = {};
};

// Errors: kUsage for options that do not fit, kData naming the file and what in it is wrong or not supported.
std::unique_ptr<Tokenizer> open_tokenizer(const TokenizerOptions& options);

}  // namespace lockstep
