// Which format a file has, and the short ones: .tiktoken, GPT-2's pair of files, llm.c's.
#include "lockstep/text/vocabulary_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "lockstep/core/error.h"
#include "lockstep/core/strict_json.h"
#include "lockstep/text/bpe_tokenizer.h"
#include "lockstep/text/byte_alphabet.h"
#include "lockstep/text/special_tokens.h"
#include "lockstep/text/split_pattern.h"
#include "lockstep/text/vocabulary_json.h"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr uintmax_t kMostFileBytes = uintmax_t{1} << 30;
constexpr int32_t kLlmcMagic = 20240328;
// Several times the longest of any vocabulary; what makes a token is looked for at every place in it.
constexpr size_t kMostTokenBytes = 1024;

// The next line without its end; false at the end of the text.
bool next_line(std::string_view& text, std::string_view& line) {
  if (text.empty()) return false;
  const size_t end = text.find('\n');
  line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return true;
}

template <class Integer>
bool parse_integer(std::string_view text, Integer& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool decode_base64(std::string_view text, std::string& bytes) {
  bytes.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<uint32_t>(c - 'a') + 26;
    } else if (c >= '0' && c <= '9') {
      value = static_cast<uint32_t>(c - '0') + 52;
    } else if (c == '+' || c == '/') {
      value = c == '+' ? 62 : 63;
    } else if (c != '=' || i < text.size() - padding) {
      return false;
    }
    bits = bits << 6 | value;
    if (i % 4 != 3) continue;
    for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(bits >> shift & 0xFF));
    bits = 0;
  }
  bytes.resize(bytes.size() - padding);
  return true;
}

// "base64 rank".
bool parse_tiktoken_line(std::string_view line, std::string& bytes, int32_t& rank) {
  const size_t blank = line.find(' ');
  return blank != std::string_view::npos && parse_integer(line.substr(blank + 1), rank) && rank >= 0 &&
         decode_base64(line.substr(0, blank), bytes);
}

struct TiktokenFamily {
  int64_t ranks;  // in its file
  const char* pattern;
  std::vector<AddedToken> special;
  std::optional<int32_t> begin, end;
};

// The vocabularies that are known by their number of ranks, with their special tokens.
std::optional<TiktokenFamily> tiktoken_family(int64_t ranks) {
  if (ranks == 50256) return TiktokenFamily{ranks, "gpt2", {{"<|endoftext|>", 50256}}, std::nullopt, 50256};
  if (ranks == 100256) {
    return TiktokenFamily{ranks,
                          "cl100k",
                          {{"<|endoftext|>", 100257},
                           {"<|fim_prefix|>", 100258},
                           {"<|fim_middle|>", 100259},
                           {"<|fim_suffix|>", 100260},
                           {"<|endofprompt|>", 100276}},
                          std::nullopt,
                          100257};
  }
  if (ranks == 199998) {
    return TiktokenFamily{
        ranks, "o200k", {{"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}}, std::nullopt, 199999};
  }
  if (ranks == 128000) {  // Llama 3.1 and later
    std::vector<std::string> names = {"<|begin_of_text|>",
                                      "<|end_of_text|>",
                                      "<|reserved_special_token_0|>",
                                      "<|reserved_special_token_1|>",
                                      "<|finetune_right_pad_id|>",
                                      "<|step_id|>",
                                      "<|start_header_id|>",
                                      "<|end_header_id|>",
                                      "<|eom_id|>",
                                      "<|eot_id|>",
                                      "<|python_tag|>"};
    for (int i = 2; names.size() < 256; ++i) names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
    TiktokenFamily family{ranks, "llama3", {}, 128000, 128001};
    for (size_t i = 0; i < names.size(); ++i)
      family.special.push_back({names[i], 128000 + static_cast<int32_t>(i)});
    return family;
  }
  if (ranks == 151643) {
    TiktokenFamily family{ranks,
                          "qwen2",
                          {{"<|endoftext|>", 151643}, {"<|im_start|>", 151644}, {"<|im_end|>", 151645}},
                          std::nullopt,
                          151643};
    return family;
  }
  return std::nullopt;
}

}  // namespace

std::string read_vocabulary_file(const std::string& path) {
  std::error_code error;
  const uintmax_t size = fs::is_regular_file(path, error) ? fs::file_size(path, error) : 0;
  if (error) fail(ErrorKind::kData, fmt::format("{}: cannot be read: {}", path, error.message()));
  if (!fs::is_regular_file(path, error)) fail(ErrorKind::kData, path + ": is not a regular file");
  if (size > kMostFileBytes) {
    fail(ErrorKind::kData,
         fmt::format("{}: a vocabulary of {} bytes: at most {}", path, size, kMostFileBytes));
  }
  std::string text(size, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (!file || file.gcount() != static_cast<std::streamsize>(size))
    fail(ErrorKind::kData, path + ": cannot be read");
  return text;
}

std::unique_ptr<Tokenizer> read_tiktoken(const std::string& path, const std::string& text,
                                         const std::string& pattern) {
  BpeContents contents;
  contents.where = path;
  contents.whole_pieces = true;
  TextIds ids;
  std::string_view rest = text, line;
  std::string bytes;
  for (int64_t number = 1; next_line(rest, line); ++number) {
    if (line.empty()) continue;
    int32_t rank = 0;
    if (!parse_tiktoken_line(line, bytes, rank) || rank >= kMostTokens) {
      fail(ErrorKind::kData,
           fmt::format("{}: line {}: must be base64 and a rank below {}", path, number, kMostTokens));
    }
    if (bytes.size() > kMostTokenBytes) {
      fail(ErrorKind::kData, fmt::format("{}: line {}: a token of {} bytes: at most {}", path, number,
                                         bytes.size(), kMostTokenBytes));
    }
    if (static_cast<size_t>(rank) >= contents.tokens.size())
      contents.tokens.resize(static_cast<size_t>(rank) + 1);
    std::optional<std::string>& token = contents.tokens[static_cast<size_t>(rank)];
    if (token || !ids.add(bytes, rank))
      fail(ErrorKind::kData, fmt::format("{}: line {}: a token or a rank for the second time", path, number));
    token = bytes;
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto found = ids.find(std::string_view(std::string(1, static_cast<char>(byte))));
    if (!found) fail(ErrorKind::kData, fmt::format("{}: no token for byte {}", path, byte));
    contents.byte_tokens[byte] = *found;
  }
  // Whatever two neighbours make a token may merge: its rank is that of the result.
  for (size_t id = 0; id < contents.tokens.size(); ++id) {
    if (!contents.tokens[id]) continue;
    const std::string_view whole = *contents.tokens[id];
    for (size_t cut = 1; cut < whole.size(); ++cut) {
      const auto left = ids.find(whole.substr(0, cut));
      if (!left) continue;
      if (const auto right = ids.find(whole.substr(cut)))
        contents.merges.push_back({*left, *right, static_cast<int32_t>(id), static_cast<uint32_t>(id)});
    }
  }
  std::ranges::sort(contents.merges, {}, [](const Merge& m) { return std::pair(m.rank, m.left); });
  const auto family = tiktoken_family(ids.size());
  if (pattern.empty() && !family) {
    fail(
        ErrorKind::kUsage,
        fmt::format("{}: {} ranks are of no vocabulary that is known: name its pattern (gpt2, cl100k, o200k, "
                    "llama3, qwen2)",
                    path, ids.size()));
  }
  if (family) {
    contents.added = family->special;
    contents.begin = family->begin;
    contents.end = family->end;
  }
  const char* known = known_pattern(pattern.empty() ? family->pattern : pattern);
  if (known == nullptr) {
    fail(ErrorKind::kUsage,
         fmt::format("pattern \"{}\": choose one of gpt2, cl100k, o200k, llama3, qwen2", pattern));
  }
  contents.splits = {{known, true}};
  return make_bpe_tokenizer(std::move(contents));
}

std::unique_ptr<Tokenizer> read_gpt2_files(const std::string& merges_path, const std::string& ids_path) {
  BpeContents contents;
  contents.where = merges_path;
  VocabularyBuilder vocabulary(contents, ids_path);
  vocabulary.add_ids(parse_json_object(ids_path, read_vocabulary_file(ids_path), ErrorKind::kData), ids_path);
  const std::string text = read_vocabulary_file(merges_path);
  std::string_view rest = text, line;
  for (int64_t number = 1; next_line(rest, line); ++number) {
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    vocabulary.add_merge(line, fmt::format("{}: line {}", merges_path, number));
  }
  vocabulary.finish();
  contents.where = merges_path;
  if (const auto end = vocabulary.id("<|endoftext|>")) {
    contents.added = {{"<|endoftext|>", *end}};
    contents.end = end;
  }
  contents.splits = {{known_pattern("gpt2"), false}};
  return make_bpe_tokenizer(std::move(contents));
}

std::unique_ptr<Tokenizer> read_llmc_tokenizer(const std::string& path, const std::string& bytes) {
  constexpr size_t kHeaderBytes = 1024;
  const auto header = [&](size_t i) {
    int32_t value = 0;
    std::memcpy(&value, bytes.data() + 4 * i, sizeof value);
    return value;
  };
  if (bytes.size() < kHeaderBytes) fail(ErrorKind::kData, path + ": truncated: the header has 1024 bytes");
  const int32_t version = header(1), count = header(2);
  if (version != 1 && version != 2)
    fail(ErrorKind::kData, fmt::format("{}: version {}: 1 and 2 are known", path, version));
  if (count < 1 || static_cast<size_t>(count) > bytes.size() - kHeaderBytes)
    fail(ErrorKind::kData, fmt::format("{}: {} tokens in {} bytes", path, count, bytes.size()));
  BpeContents contents;
  contents.where = path;
  size_t at = kHeaderBytes;
  for (int32_t id = 0; id < count; ++id) {
    const size_t length = at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : bytes.size();
    if (length > bytes.size() - std::min(bytes.size(), at + 1))
      fail(ErrorKind::kData, fmt::format("{}: truncated: token {} at byte {}", path, id, at));
    contents.tokens.emplace_back(bytes.substr(at + 1, length));
    at += 1 + length;
  }
  if (at != bytes.size())
    fail(ErrorKind::kData, fmt::format("{}: must end at byte {}: more bytes follow", path, at));
  const int32_t end = version == 1 ? 50256 : header(3);
  if (end < 0 || end >= count)
    fail(ErrorKind::kData, fmt::format("{}: token {} ends texts, of {} tokens", path, end, count));
  contents.added = {{*contents.tokens[static_cast<size_t>(end)], end}};
  contents.end = end;
  return make_decoder(std::move(contents));
}

namespace {

// The file of a directory that says most.
std::string vocabulary_in(const std::string& directory) {
  for (const char* name : {"tokenizer.json", "vocab.bpe", "merges.txt", "tokenizer.model", "tokenizer.bin"}) {
    const fs::path path = fs::path(directory) / name;
    if (fs::exists(path)) return path.string();
  }
  fail(ErrorKind::kData,
       directory + ": has no tokenizer.json, vocab.bpe, merges.txt, tokenizer.model or tokenizer.bin");
}

std::string ids_beside(const std::string& merges_path) {
  for (const char* name : {"encoder.json", "vocab.json"}) {
    const fs::path path = fs::path(merges_path).parent_path() / name;
    if (fs::exists(path)) return path.string();
  }
  fail(ErrorKind::kData,
       merges_path +
           ": is no tokenizer that is known, or holds merges alone: there is no encoder.json or "
           "vocab.json beside it");
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const TokenizerOptions& options) {
  const auto no_pattern = [&] {
    if (!options.pattern.empty()) {
      fail(ErrorKind::kUsage,
           fmt::format("{}: a pattern (\"{}\") is for .tiktoken files: this one has its own", options.path,
                       options.pattern));
    }
  };
  std::error_code error;
  if (options.path == "bytes") {
    no_pattern();
    return make_byte_tokenizer();
  }
  const std::string path = fs::is_directory(options.path, error) ? vocabulary_in(options.path) : options.path;
  const std::string text = read_vocabulary_file(path);
  const std::string_view view = text;
  std::string_view rest = view, line;
  std::string bytes;
  int32_t number = 0;
  if (view.size() >= 4) std::memcpy(&number, view.data(), sizeof number);
  if (number == kLlmcMagic) {
    no_pattern();
    return read_llmc_tokenizer(path, text);
  }
  const size_t first = view.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && view[first] == '{') {
    no_pattern();
    if (fs::path name = fs::path(path).filename(); name == "encoder.json" || name == "vocab.json") {
      for (const char* merges : {"vocab.bpe", "merges.txt"}) {
        const fs::path beside = fs::path(path).parent_path() / merges;
        if (fs::exists(beside)) return read_gpt2_files(beside.string(), path);
      }
    }
    return read_tokenizer_json(path, text);
  }
  if (next_line(rest, line) && parse_tiktoken_line(line, bytes, number))
    return read_tiktoken(path, text, options.pattern);
  if (line.starts_with("#version") || (line.find(' ') != std::string_view::npos && line.size() < 256)) {
    no_pattern();
    return read_gpt2_files(path, ids_beside(path));
  }
  fail(
      ErrorKind::kData,
      path +
          ": is no vocabulary: neither tokenizer.json, .tiktoken, merges of GPT-2 nor llm.c's tokenizer.bin");
}

}  // namespace lockstep
