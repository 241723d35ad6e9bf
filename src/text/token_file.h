// Tokens on disk, memory-mapped: Lockstep's own sealed files, llm.c's and modded-nanogpt's .bin, Megatron's
// .bin with its .idx. Any length; opening takes the same time for a megabyte and a terabyte.
//
// Our own are HDF5: /tokens (n) uint16 or uint32 and /documents (d + 1) uint64, where each document begins
// and, at last, n. Where not all tokens count, /counted (n / 8, rounded up) uint8 has a bit for each, the
// lowest first. They are contiguous and sealed block by block (hdf5/sealed_file.h). Around them, sealed as a
// whole: /digests (blocks, 16), and attributes: token_layout 1, or 2 with /counted, vocabulary_size,
// tokenizer (its digest), begin_token and end_token (what stands before and behind each document; -1:
// nothing), largest_token and its position, text_bytes (of the text of the tokens that count) and
// counted_tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace lockstep {

struct TokenFileDescription {
  std::string source;  // path, for messages
  int64_t tokens = 0;
  int bytes_per_token = 2;
  int64_t vocabulary_size = 0;                  // 0: the file does not say
  std::string tokenizer;                        // digest; empty: the file does not say
  std::optional<int32_t> begin, end;            // what stands before and behind each document
  int64_t documents = -1;                       // -1: not known without reading all of it
  int64_t largest = -1, largest_position = -1;  // of all tokens; -1: not known
  int64_t counted = -1;                         // tokens that count as targets; -1: all of them
  int64_t text_bytes = 0;                       // of the text of those that count; 0: not known
};

// Any number of threads may use a file.
class TokenFile {
 public:
  TokenFile() = default;
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;
  virtual ~TokenFile() = default;

  const TokenFileDescription& description() const { return description_; }
  int64_t size() const { return description_.tokens; }
  // Tokens first, first + 1, ...; all inside of the file. Error (kData) naming file, block and tokens when
  // stored bytes are not those that were sealed, and for a token beyond 2^31.
  virtual void read(int64_t first, std::span<int32_t> out) const = 0;
  // 1 for each of these tokens that counts as a target, 0 for the others: those of prompts. Errors as read().
  virtual void read_weights(int64_t first, std::span<float> out) const;
  // Where document i begins, i in [0, documents]; needs documents >= 0. Errors (kData) as read(), and for one
  // that begins before the one before it or outside of the file.
  virtual int64_t document_begin(int64_t i) const = 0;
  // The document that holds the token at this position.
  int64_t document_of(int64_t position) const;
  // Has the disk bring what will be read.
  virtual void read_ahead(int64_t first, int64_t count) const = 0;
  // 32 hex digits: of all digests where the file is sealed; empty where not.
  virtual std::string digest() const { return {}; }

 protected:
  TokenFileDescription description_;
};

// The content decides which format it is; Megatron's may be named by its .bin, its .idx or without either.
// Errors (kData) name the file and the rule.
std::unique_ptr<TokenFile> open_token_file(const std::string& path);
// Whether a sealed file holds tokens. Error (kData): cannot be read, or its outline is damaged.
bool holds_tokens(const std::string& path);
// The same of a file whose outline has been verified.
bool outlines_tokens(const std::string& path);

// Readers, one a format.
std::unique_ptr<TokenFile> open_sealed_tokens(const std::string& path);
std::unique_ptr<TokenFile> open_llmc_tokens(const std::string& path);
std::unique_ptr<TokenFile> open_megatron_tokens(const std::string& index_path, const std::string& path);

// Writes one document by document, in memory that does not grow. Errors: kUsage for a place that it cannot be
// written to or must not replace, kData for the disk and for tokens outside of the vocabulary.
class TokenFileWriter {
 public:
  // vocabulary_size, tokenizer, begin and end of `description` are written; the rest is found out.
  TokenFileWriter(const std::string& path, const TokenFileDescription& description);
  ~TokenFileWriter();  // removes what was not finished
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  // More tokens of the document under way, and whether they count as targets.
  void add(std::span<const int32_t> tokens, bool count = true);
  // Of the text that the tokens that count stand for.
  void add_text_bytes(int64_t bytes);
  void end_document();
  // Seals the file and moves it into its place. Error (kData) without any token, or any that counts.
  TokenFileDescription finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
