// Windows of a token file as samples: what language models learn from.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "lockstep/core/configuration.h"
#include "lockstep/data/data_source.h"

namespace lockstep {

class TokenFile;

// Whether the documents of a window see each other.
enum class Documents {
  kJoin,  // as one text
  // Field kDocumentsName (T) int32 says of which document of the window each input is, for models that keep
  // them apart. The target behind the last token of a document, which is of another one, weighs nothing.
  kMask,
};

// Sample i are tokens i T to i T + T, T = context: the first T are inputs (T), the last T the targets of the
// positions (T). Documents lie one behind the other, and a window may hold parts of several. What is left at
// the end of the file and fills no window is not used. Targets have weights (T) where the file says that not
// all tokens count, or documents are masked: 1, or 0.
class TokenWindows final : public WholeSource {
 public:
  // classes: outputs of a model; 0: the vocabulary's size, which the file must say then. Errors: kUsage for a
  // context below 1, kData naming file and rule when the file has no whole window, says no size, or holds a
  // token that is none of the classes (where the file knows its largest one; else in gather()), or is to be
  // masked and does not tell where documents begin: by itself, or by a token that stands before each.
  TokenWindows(const std::string& path, int64_t context, int64_t classes,
               Documents documents = Documents::kJoin);
  ~TokenWindows() override;
  void gather(std::span<const int64_t> rows, const SampleBuffers& out) const override;
  bool waits() const override;
  void read_ahead(std::span<const int64_t> rows) const override;
  // Of the file's own where it is sealed; else of its size and of blocks spread evenly over it, since a file
  // of any size opens at once.
  std::string digest() const override;

 private:
  // Weights, and where they are masked documents, of the window from token `first` on.
  void weigh(int64_t first, const int32_t* targets, const SampleBuffers& place) const;

  std::unique_ptr<TokenFile> file_;
  int64_t context_;
  Documents documents_;
};

// Whether DataDescription::vocabulary is that of tokens which the tokenizer of this digest has made.
bool made_by(const std::string& vocabulary, const std::string& tokenizer_digest);

// Whether two of them are of one tokenizer; what stands before and behind documents may differ.
bool same_tokenizer(const std::string& vocabulary, const std::string& other);

// The tokens that such a text says to stand before and behind each document.
struct DocumentTokens {
  std::optional<int32_t> begin, end;
};
DocumentTokens document_tokens(const std::string& vocabulary);

// The reader of data.format = "tokens".
SourceOpener read_token_windows(Section& data);

}  // namespace lockstep
