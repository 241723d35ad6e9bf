// Tokenizers: ids of the peers on texts of every kind, round trips, what is refused.
#include "lockstep/text/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "text/files.h"

namespace lockstep {
namespace {

using nlohmann::json;
using testing::expect_rejection;
using testing::kFiles;
using testing::read_json;
using testing::write_text;

void expect_peers_ids(const std::string& which, const Tokenizer& tokenizer, SpecialSpelling spelling) {
  const json expected = read_json(kFiles + "expected.json");
  const json& texts = expected["texts"];
  const json& ids = expected["ids"].at(which);
  ASSERT_EQ(texts.size(), ids.size());
  const auto encoder = tokenizer.encoder(spelling);
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<int32_t> found;
    encoder->encode(texts[i].get<std::string>(), found);
    EXPECT_EQ(found, ids[i].get<std::vector<int32_t>>()) << which << ": " << texts[i].dump();
  }
}

TEST(Tokenizer, HasTheIdsOfHuggingFace) {
  for (const std::string name : {"gpt2.json", "llama3.json", "qwen2.json"}) {
    const auto tokenizer = open_tokenizer({.path = kFiles + name});
    expect_peers_ids(name, *tokenizer, SpecialSpelling::kToken);
    expect_peers_ids(name + ", special as text", *tokenizer, SpecialSpelling::kText);
  }
}

TEST(Tokenizer, HasTheIdsOfTiktoken) {
  for (const std::string pattern : {"gpt2", "cl100k", "o200k", "llama3", "qwen2"}) {
    const auto tokenizer = open_tokenizer({.path = kFiles + "small.tiktoken", .pattern = pattern});
    expect_peers_ids("small.tiktoken, " + pattern, *tokenizer, SpecialSpelling::kText);
  }
}

TEST(Tokenizer, ReadsTheSameVocabularyFromGpt2sPairOfFiles) {
  const auto pair = open_tokenizer({.path = kFiles + "vocab.bpe"});
  expect_peers_ids("gpt2.json", *pair, SpecialSpelling::kToken);
  const auto one = open_tokenizer({.path = kFiles + "gpt2.json"});
  EXPECT_EQ(pair->digest(), one->digest());
  EXPECT_EQ(open_tokenizer({.path = kFiles + "encoder.json"})->digest(), one->digest());
  EXPECT_EQ(one->digest().size(), 32);
}

TEST(Tokenizer, DigestsTellVocabulariesApart) {
  const auto digest = [](const std::string& name, const std::string& pattern = "") {
    return open_tokenizer({.path = kFiles + name, .pattern = pattern})->digest();
  };
  EXPECT_NE(digest("llama3.json"), digest("qwen2.json"));
  EXPECT_NE(digest("small.tiktoken", "llama3"), digest("small.tiktoken", "qwen2"));
  EXPECT_NE(digest("gpt2.json"), make_byte_tokenizer()->digest());
}

TEST(Tokenizer, RoundTripsWellFormedText) {
  const json texts = read_json(kFiles + "expected.json")["texts"];
  const auto tokenizer = open_tokenizer({.path = kFiles + "llama3.json"});
  for (const json& text : texts) {
    const auto original = text.get<std::string>();
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(original)), original);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(original, SpecialSpelling::kText)), original);
  }
}

TEST(Tokenizer, KnowsItsSizeAndItsSpecialTokens) {
  const auto tokenizer = open_tokenizer({.path = kFiles + "llama3.json"});
  EXPECT_EQ(tokenizer->vocabulary_size(), 484);
  EXPECT_EQ(tokenizer->special_token("<|begin_of_text|>"), 480);
  EXPECT_EQ(tokenizer->begin_of_text(), 480);  // its post-processor puts it there
  EXPECT_EQ(tokenizer->end_of_text(), 481);
  EXPECT_EQ(tokenizer->special_token("<keep>"), std::nullopt);  // added, but not special
  const std::vector<int32_t> ids = tokenizer->encode("<|endoftext|>");
  EXPECT_EQ(ids, (std::vector<int32_t>{481}));
  EXPECT_GT(tokenizer->encode("<|endoftext|>", SpecialSpelling::kText).size(), 1u);
  const std::vector<int32_t> beyond = {484}, negative = {-1};
  expect_rejection(ErrorKind::kData, {"decode", "484"}, [&] { tokenizer->decode(beyond); });
  expect_rejection(ErrorKind::kData, {"decode", "-1"}, [&] { tokenizer->decode(negative); });
}

TEST(Tokenizer, MalformedBytesBecomeTheReplacementCharacterAsInPython) {
  const auto tokenizer = open_tokenizer({.path = kFiles + "gpt2.json"});
  const std::string r = "\xEF\xBF\xBD";
  // What bytes.decode("utf-8", "replace") makes of the first is the second.
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\xFFz", "a" + r + "z"},
      {"\xC0\xAF", r + r},
      {"\xE2\x82", r},  // truncated: one
      {"\xE2\x82x", r + "x"},
      {"\xF0\x9F\x98", r},
      {"\xF0\x80\x80\x80", r + r + r + r},  // overlong
      {"\xED\xA0\x80", r + r + r},          // a surrogate
      {"\xF4\x90\x80\x80", r + r + r + r},  // above U+10FFFF
      {"\x80\x80 ok", r + r + " ok"},
      {"12345678\xE2\x28\xA1", "12345678" + r + "(" + r},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes)), text);
    EXPECT_EQ(tokenizer->encode(bytes), tokenizer->encode(text));
  }
}

TEST(Tokenizer, BytesRoundTripWhateverTheyAre) {
  const auto tokenizer = open_tokenizer({.path = "bytes"});
  EXPECT_EQ(tokenizer->vocabulary_size(), 257);
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  const std::vector<int32_t> ids = tokenizer->encode(all);
  ASSERT_EQ(ids.size(), 256u);
  EXPECT_EQ(ids[200], 200);
  EXPECT_EQ(tokenizer->decode(ids), all);
  EXPECT_EQ(tokenizer->encode("a<|endoftext|>"), (std::vector<int32_t>{'a', 256}));
  EXPECT_EQ(tokenizer->encode("a<|endoftext|>", SpecialSpelling::kText).size(), 14u);
}

// A pattern that backtracks, or merging in quadratic time, would take hours.
TEST(Tokenizer, LongRunsTakeNoQuadraticTime) {
  constexpr size_t kBytes = size_t{1} << 20;
  for (const std::string name : {"gpt2.json", "llama3.json", "qwen2.json"}) {
    const auto tokenizer = open_tokenizer({.path = kFiles + name});
    const auto encoder = tokenizer->encoder(SpecialSpelling::kToken);
    for (const std::string unit : {" ", "\n", "a", "e\xCC\x81\xCC\xA3", "<|end", "\xE4\xB8\xAD", " \n"}) {
      std::string text;
      while (text.size() < kBytes) text += unit;
      std::vector<int32_t> ids;
      encoder->encode(text, ids);
      if (name != "qwen2.json") {  // NFC composes
        EXPECT_EQ(tokenizer->decode(ids), text) << name << ": " << unit;
      }
    }
  }
}

TEST(Tokenizer, ReadsLlmcsFileToDecode) {
  testing::ScratchDirectory directory;
  const std::string path = directory.file("tokenizer.bin");
  std::vector<int32_t> header(256);
  header[0] = 20240328;
  header[1] = 2;
  header[2] = 3;
  header[3] = 2;
  std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
  bytes += std::string(
               "\x02"
               "Hi",
               3) +
           std::string("\x01!", 2) + std::string("\x05<eot>", 6);
  write_text(path, bytes);
  const auto tokenizer = open_tokenizer({.path = path});
  EXPECT_EQ(tokenizer->vocabulary_size(), 3);
  EXPECT_EQ(tokenizer->end_of_text(), 2);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 1, 2}), "Hi!<eot>");
  expect_rejection(ErrorKind::kUsage, {path, "only decodes"}, [&] { tokenizer->encode("Hi"); });
  write_text(path, bytes.substr(0, bytes.size() - 1));
  expect_rejection(ErrorKind::kData, {path, "truncated", "token 2"}, [&] { open_tokenizer({.path = path}); });
  write_text(path, bytes + "x");
  expect_rejection(ErrorKind::kData, {path, "more bytes follow"}, [&] { open_tokenizer({.path = path}); });
}

class TokenizerJson : public ::testing::Test {
 protected:
  void reject(std::initializer_list<std::string> parts, const json& contents) {
    write_text(path_, contents.dump());
    expect_rejection(ErrorKind::kData, parts, [&] { open_tokenizer({.path = path_}); });
  }
  testing::ScratchDirectory directory_;
  std::string path_ = directory_.file("tokenizer.json");
  json good_ = read_json(kFiles + "llama3.json");
};

TEST_F(TokenizerJson, RefusesByItsKeyWhatItDoesNotDo) {
  const std::vector<std::pair<std::string, json>> changes = {
      {"/model/dropout", 0.1},
      {"/model/byte_fallback", true},
      {"/model/continuing_subword_prefix", "##"},
      {"/model/end_of_word_suffix", "</w>"},
      {"/model/type", "Unigram"},
      {"/truncation", {{"max_length", 5}}},
      {"/padding", {{"length", 5}}},
      {"/version", "2.0"},
      {"/normalizer", {{"type", "Lowercase"}}},
      {"/pre_tokenizer", {{"type", "Whitespace"}}},
      {"/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true},
      {"/decoder/type", "WordPiece"},
      {"/post_processor/type", "BertProcessing"},
      {"/added_tokens/0/lstrip", true},
      {"/added_tokens/0/single_word", true},
  };
  for (const auto& [pointer, value] : changes) {
    json changed = good_;
    changed[json::json_pointer(pointer)] = value;
    reject({path_, pointer.substr(pointer.rfind('/') + 1), "not supported"}, changed);
  }
}

TEST_F(TokenizerJson, RefusesWhatIsDamaged) {
  json changed = good_;
  changed["model"]["vocab"]["!"] = 1;
  reject({path_, "two tokens of id 1"}, changed);
  changed = good_;
  changed["model"]["vocab"]["!"] = -1;
  reject({path_, "\"!\"", "-1"}, changed);
  changed = good_;
  changed["model"]["vocab"].erase("!");
  reject({path_, "no token for byte 33"}, changed);
  changed = good_;
  changed["model"]["merges"].push_back({"a", "nothing"});
  reject({path_, "model.merges[", "\"nothing\""}, changed);
  changed = good_;
  changed["model"]["merges"].push_back("a b c");
  reject({path_, "model.merges[", "\"a b c\""}, changed);
  changed = good_;
  changed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(open";
  reject({path_, "pattern"}, changed);
  changed = good_;
  changed["added_tokens"][0]["id"] = int64_t{1} << 40;
  reject({path_, "added_tokens[0].id"}, changed);
  changed = good_;
  changed["added_tokens"].push_back(good_["added_tokens"][0]);
  changed["added_tokens"].back()["content"] = "<|another|>";
  reject({path_, "of \"<|another|>\": is that of", "too"}, changed);
  changed = good_;
  changed["added_tokens"][0]["id"] = 300;
  reject({path_, "added_tokens[0].id: 300", "in model.vocab"}, changed);
  changed = good_;
  changed.erase("model");
  reject({path_, "model", "must be an object"}, changed);
  write_text(path_, "{\"model\": ");
  expect_rejection(ErrorKind::kData, {path_, "is not JSON"}, [&] { open_tokenizer({.path = path_}); });
  write_text(path_, "once upon a time");
  expect_rejection(ErrorKind::kData, {path_}, [&] { open_tokenizer({.path = path_}); });
  write_text(path_, "");
  expect_rejection(ErrorKind::kData, {path_, "is no vocabulary"}, [&] { open_tokenizer({.path = path_}); });
}

TEST_F(TokenizerJson, TakesMergesOfTheOldSpelling) {
  json old = good_;
  for (json& merge : old["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  write_text(path_, old.dump());
  EXPECT_EQ(open_tokenizer({.path = path_})->digest(),
            open_tokenizer({.path = kFiles + "llama3.json"})->digest());
  EXPECT_EQ(open_tokenizer({.path = std::filesystem::path(path_).parent_path().string()})->digest(),
            open_tokenizer({.path = kFiles + "llama3.json"})->digest());
}

TEST(Tokenizer, TiktokenFilesNeedAPatternAndSoundLines) {
  const std::string small = kFiles + "small.tiktoken";
  expect_rejection(ErrorKind::kUsage, {small, "pattern", "cl100k"}, [&] { open_tokenizer({.path = small}); });
  expect_rejection(ErrorKind::kUsage, {"\"gpt5\""},
                   [&] { open_tokenizer({.path = small, .pattern = "gpt5"}); });
  expect_rejection(ErrorKind::kUsage, {"gpt2.json", "pattern"},
                   [&] { open_tokenizer({.path = kFiles + "gpt2.json", .pattern = "gpt2"}); });
  testing::ScratchDirectory directory;
  const std::string path = directory.file("x.tiktoken");
  write_text(path, "IQ== 0\nIg== 0\n");
  expect_rejection(ErrorKind::kData, {path, "line 2", "second time"},
                   [&] { open_tokenizer({.path = path, .pattern = "gpt2"}); });
  write_text(path, "IQ== 0\nIg= 1\n");
  expect_rejection(ErrorKind::kData, {path, "line 2", "base64"},
                   [&] { open_tokenizer({.path = path, .pattern = "gpt2"}); });
  // What a small file could ask for: memory for so many ids, and time for all cuts of so long a token.
  write_text(path, "IQ== 4194304\n");
  expect_rejection(ErrorKind::kData, {path, "line 1", "rank below 4194304"},
                   [&] { open_tokenizer({.path = path, .pattern = "gpt2"}); });
  std::string most;
  for (int i = 0; i < 340; ++i) most += "ISEh";  // 1020 bytes
  write_text(path, "IQ== 0\n" + most + " 1\n" + most + "YWFhYWFh 2\n");
  expect_rejection(ErrorKind::kData, {path, "line 3", "a token of 1026 bytes", "at most 1024"},
                   [&] { open_tokenizer({.path = path, .pattern = "gpt2"}); });
  write_text(path, "IQ== 0\n");
  expect_rejection(ErrorKind::kData, {path, "no token for byte 0"},
                   [&] { open_tokenizer({.path = path, .pattern = "gpt2"}); });
}

}  // namespace
}  // namespace lockstep
