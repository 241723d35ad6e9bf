// Chunks are encoded on all threads and written in their order.
#include "lockstep/text/tokenize.h"

#include <fmt/format.h>

#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/text/corpus_batches.h"

namespace lockstep {

namespace {

// Encoders that wait for a thread. What one has learned stays with it.
class Encoders {
 public:
  Encoders(const Tokenizer& tokenizer, SpecialSpelling spelling)
      : tokenizer_(tokenizer), spelling_(spelling) {}
  std::unique_ptr<TokenEncoder> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<TokenEncoder> encoder = std::move(idle_.back());
        idle_.pop_back();
        return encoder;
      }
    }
    return tokenizer_.encoder(spelling_);
  }
  void give_back(std::unique_ptr<TokenEncoder> encoder) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(encoder));
  }

 private:
  const Tokenizer& tokenizer_;
  SpecialSpelling spelling_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<TokenEncoder>> idle_;
};

// The tokens of a chunk, and where in them documents end.
struct ChunkTokens {
  struct Document {
    size_t counted_from, end;
  };
  std::vector<int32_t> ids;
  std::vector<Document> documents;
  int64_t bytes = 0;  // of text whose tokens count
};

ChunkTokens encode_chunk(const TextChunk& chunk, const TokenizeOptions& options, TokenEncoder& encoder) {
  ChunkTokens tokens;
  const bool prompts = !options.corpus.prompt.empty();
  std::vector<int32_t>& ids = tokens.ids;
  ids.reserve(chunk.text.size() / 3);
  visit_documents(chunk, options.corpus, [&](const TextDocument& document) {
    const auto encode = [&](std::string_view text) {
      try {
        encoder.encode(text, ids);
      } catch (const std::bad_alloc&) {
        fail(ErrorKind::kData,
             fmt::format("{}: out of memory for the tokens of {} bytes", document.place, text.size()));
      } catch (const Error& error) {
        fail(error.kind(), fmt::format("{}: {}", document.place, error.what()));
      }
    };
    size_t from = ids.size();
    if (chunk.begins && options.begin) ids.push_back(*options.begin);
    const size_t text = ids.size();
    // Apart from each other, as a prompt that is to be continued is.
    encode(document.prompt);
    if (prompts) from = ids.size();
    encode(document.text);
    if (chunk.begins && options.begin && text < ids.size() && ids[text] == *options.begin) {
      fail(ErrorKind::kData, fmt::format("{}: begins with token {}, which --begin would double: --begin none",
                                         document.place, *options.begin));
    }
    tokens.bytes += std::ssize(document.text);
    if (!chunk.ends) return;
    if (options.end) ids.push_back(*options.end);
    tokens.documents.push_back({from, ids.size()});
  });
  return tokens;
}

void write(const ChunkTokens& tokens, TokenFileWriter& writer) {
  const std::span<const int32_t> ids = tokens.ids;
  size_t begin = 0;
  for (const ChunkTokens::Document& document : tokens.documents) {
    writer.add(ids.subspan(begin, document.counted_from - begin), false);
    writer.add(ids.subspan(document.counted_from, document.end - document.counted_from));
    writer.end_document();
    begin = document.end;
  }
  writer.add(ids.subspan(begin));
  writer.add_text_bytes(tokens.bytes);
}

}  // namespace

TokenFileDescription tokenize(const TokenizeOptions& options, const Tokenizer& tokenizer,
                              const std::string& output) {
  Encoders encoders(tokenizer, options.spelling);
  encoders.give_back(encoders.take());  // a vocabulary that only decodes says so here
  TokenFileDescription description;
  description.vocabulary_size = tokenizer.vocabulary_size();
  description.tokenizer = tokenizer.digest();
  description.begin = options.begin;
  description.end = options.end;
  TokenFileWriter writer(output, description);
  for_each_batch(
      options.corpus, [&](std::string_view text) { return tokenizer.cut(text); },
      [&](const std::vector<TextChunk>& chunks) {
        std::vector<ChunkTokens> tokens(chunks.size());
        thread_pool().run(std::ssize(tokens), [&](int64_t i) {
          const auto at = static_cast<size_t>(i);
          std::unique_ptr<TokenEncoder> encoder = encoders.take();
          tokens[at] = encode_chunk(chunks[at], options, *encoder);
          encoders.give_back(std::move(encoder));
        });
        for (const ChunkTokens& part : tokens) write(part, writer);
      },
      options.progress);
  return writer.finish();
}

}  // namespace lockstep
