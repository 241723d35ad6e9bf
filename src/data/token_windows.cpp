// Windows of tokens.
#include "lockstep/data/token_windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>
#include <vector>

#include "lockstep/core/error.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/hdf5/sealed_file.h"
#include "lockstep/text/token_file.h"

namespace lockstep {

namespace {

// Of a file without digests.
constexpr int64_t kProbes = 256, kProbeTokens = 1024;
// Tokens of such a file that are looked at when it is opened, a shard of llm.c and some more; of a longer one
// each is when its window is read.
constexpr int64_t kMostScanned = int64_t{1} << 27;

// Where two differ, a model of one does not know the other's texts.
std::string vocabulary_text(const TokenFileDescription& tokens) {
  const auto name = [](std::optional<int32_t> id) { return id ? fmt::format("token {}", *id) : "nothing"; };
  return fmt::format("tokenizer {}, {} before and {} behind each document", tokens.tokenizer,
                     name(tokens.begin), name(tokens.end));
}

[[noreturn]] void refuse_token(const TokenFileDescription& tokens, int64_t token, int64_t position,
                               int64_t classes) {
  const bool other = tokens.vocabulary_size > classes;
  fail(ErrorKind::kData,
       fmt::format("{}: token {} at position {}: must be in [0, {}){}", tokens.source, token, position,
                   classes, other ? fmt::format("; its tokenizer has {}", tokens.vocabulary_size) : ""));
}

void require_in_vocabulary(const TokenFile& file, int64_t classes) {
  std::vector<int32_t> piece(size_t{1} << 16);
  for (int64_t first = 0; first < file.size(); first += std::ssize(piece)) {
    piece.resize(static_cast<size_t>(std::min<int64_t>(std::ssize(piece), file.size() - first)));
    file.read(first, piece);
    const auto bad =
        std::ranges::find_if(piece, [=](int32_t token) { return token < 0 || token >= classes; });
    if (bad != piece.end()) refuse_token(file.description(), *bad, first + (bad - piece.begin()), classes);
  }
}

}  // namespace

TokenWindows::TokenWindows(const std::string& path, int64_t context, int64_t classes, Documents documents)
    : file_(open_token_file(path)), context_(context), documents_(documents) {
  const TokenFileDescription& tokens = file_->description();
  if (context < 1)
    fail(ErrorKind::kUsage, fmt::format("{}: context must be at least 1, got {}", path, context));
  if (classes == 0) classes = tokens.vocabulary_size;
  if (classes <= 0) {
    fail(ErrorKind::kData,
         fmt::format("{}: does not say how large its vocabulary is: data.classes must", tokens.source));
  }
  if (tokens.largest >= classes) refuse_token(tokens, tokens.largest, tokens.largest_position, classes);
  if (tokens.largest < 0 && file_->size() <= kMostScanned) require_in_vocabulary(*file_, classes);
  if (documents == Documents::kMask && tokens.documents < 0 && !tokens.begin) {
    fail(ErrorKind::kData, fmt::format("{}: does not tell where documents begin: data.documents = \"mask\" "
                                       "needs to know",
                                       tokens.source));
  }
  description_.source = tokens.source;
  description_.samples = (tokens.tokens - 1) / context;
  if (description_.samples < 1) {
    fail(ErrorKind::kData, fmt::format("{}: {} tokens: a window of {} and the token behind it need {}",
                                       tokens.source, tokens.tokens, context, context + 1));
  }
  description_.sample_shape = {context};
  description_.input_dtype = DType::kI32;
  description_.classes = classes;
  description_.positions = {context};
  description_.weighted = documents == Documents::kMask || tokens.counted >= 0;
  if (documents == Documents::kMask) description_.others = {{kDocumentsName, DType::kI32, {context}}};
  if (!tokens.tokenizer.empty()) description_.vocabulary = vocabulary_text(tokens);
  const int64_t counted = tokens.counted >= 0 ? tokens.counted : tokens.tokens;
  description_.bytes_per_target = static_cast<double>(tokens.text_bytes) / static_cast<double>(counted);
  description_.largest_index = tokens.largest;
  description_.largest_index_row = tokens.largest_position / context + 1;
}

TokenWindows::~TokenWindows() = default;

void TokenWindows::gather(std::span<const int64_t> rows, const SampleBuffers& out) const {
  const auto window = static_cast<size_t>(context_);
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleBuffers place = out.from(static_cast<int64_t>(i));
    const int64_t first = rows[i] * context_;
    auto* const inputs = place.at<int32_t>(DataDescription::kInputs);
    auto* const targets = place.at<int32_t>(DataDescription::kTargets);
    file_->read(first + 1, {targets, window});
    file_->read(first, {inputs, 1});
    std::memcpy(inputs + 1, targets, (window - 1) * sizeof(int32_t));
    if (description_.weighted) weigh(first, targets, place);
    const auto limit = static_cast<int32_t>(description_.classes);
    const auto outside = [limit](int32_t token) { return token < 0 || token >= limit; };
    if (!outside(inputs[0]) && std::none_of(targets, targets + window, outside)) continue;
    const int64_t at =
        outside(inputs[0]) ? 0 : std::find_if(targets, targets + window, outside) - targets + 1;
    refuse_token(file_->description(), at == 0 ? inputs[0] : targets[at - 1], first + at, limit);
  }
}

void TokenWindows::weigh(int64_t first, const int32_t* targets, const SampleBuffers& place) const {
  const auto window = static_cast<size_t>(context_);
  const std::span weights(place.at<float>(DataDescription::kWeights), window);
  file_->read_weights(first + 1, weights);
  if (documents_ == Documents::kJoin) return;
  const std::span document(place.at<int32_t>(DataDescription::kWeights + 1), window);
  const int64_t documents = file_->description().documents;
  int64_t number = -1, end = 0;  // of the file's documents
  if (documents >= 0) {
    number = file_->document_of(first);
    end = file_->document_begin(number + 1);
  }
  // Whether a token other than the first is of another document than the one before it.
  const auto begins = [&](int64_t at, int32_t token) {
    if (number < 0) return token == *file_->description().begin;
    if (at < end) return false;
    // Empty ones hold no tokens; the last one ends with the file.
    while (at >= end && number + 1 < documents) end = file_->document_begin(++number + 1);
    return true;
  };
  int32_t found = 0;
  for (size_t t = 0; t < window; ++t) {
    document[t] = found;
    if (!begins(first + static_cast<int64_t>(t) + 1, targets[t])) continue;
    weights[t] = 0.0f;
    ++found;
  }
}

bool TokenWindows::waits() const {
  return file_->size() * file_->description().bytes_per_token >= kReadAheadBytes;
}

void TokenWindows::read_ahead(std::span<const int64_t> rows) const {
  for (const int64_t row : rows) file_->read_ahead(row * context_, context_ + 1);
}

std::string TokenWindows::digest() const {
  const std::string layout = fmt::format("windows of {}{};", context_,
                                         documents_ == Documents::kMask ? " with documents apart" : "");
  if (const std::string own = file_->digest(); !own.empty()) return digest_of_digests(layout + own, {});
  std::vector<Digest> digests;
  std::vector<int32_t> probe;
  for (int64_t i = 0; i < kProbes; ++i) {
    const int64_t count = std::min(kProbeTokens, file_->size());
    probe.resize(static_cast<size_t>(count));
    // Without the product of two numbers of any size.
    const int64_t room = file_->size() - count;
    file_->read(room / (kProbes - 1) * i + room % (kProbes - 1) * i / (kProbes - 1), probe);
    digests.push_back(digest_of(std::as_bytes(std::span(probe))));
  }
  return digest_of_digests(fmt::format("{}{} tokens;", layout, file_->size()), digests);
}

bool made_by(const std::string& vocabulary, const std::string& tokenizer_digest) {
  return vocabulary.starts_with("tokenizer " + tokenizer_digest + ",");
}

bool same_tokenizer(const std::string& vocabulary, const std::string& other) {
  return vocabulary.substr(0, vocabulary.find(',')) == other.substr(0, other.find(','));
}

// What vocabulary_text() has written.
DocumentTokens document_tokens(const std::string& vocabulary) {
  const auto token_behind = [&vocabulary](std::string_view words) {
    const size_t at = vocabulary.find(fmt::format("{}token ", words));
    std::optional<int32_t> token;
    if (at == std::string::npos) return token;
    int32_t id = 0;
    const char* const begin = vocabulary.data() + at + words.size() + std::string_view("token ").size();
    if (std::from_chars(begin, vocabulary.data() + vocabulary.size(), id).ec == std::errc{}) token = id;
    return token;
  };
  return {token_behind(", "), token_behind(" before and ")};
}

SourceOpener read_token_windows(Section& data) {
  const int64_t context = data.integer("context", 256, {1, 1 << 24}, "tokens: length of a window, a sample");
  const bool mask =
      data.text("documents", "join", {"join", "mask"},
                "tokens: mask: documents in a window do not see each other, for models that read where they "
                "begin; the target behind a document's end does not count") == "mask";
  const Documents documents = mask ? Documents::kMask : Documents::kJoin;
  return [context, documents](const DatasetOptions& options) {
    // Keys of other formats.
    const auto refuse = [&](bool given, const char* key, const char* reason) {
      if (given)
        fail(ErrorKind::kUsage,
             fmt::format("{}: data.{} is of other formats than tokens: {}", options.path, key, reason));
    };
    const char* const targets = "the target at each position is the token behind it";
    refuse(options.ignore_label.has_value(), "ignore_label",
           "which tokens count is in the file (tokenize --prompt)");
    refuse(!options.target.empty(), "target", targets);
    refuse(!options.labels.empty(), "labels (of validation: validation_labels)", targets);
    refuse(options.classes < 0, "classes = -1 (regression)", targets);
    refuse(options.follow, "follow", "a token file has no values in other files");
    return std::make_shared<TokenWindows>(options.path, context, options.classes, documents);
  };
}

}  // namespace lockstep
