// Windows of a token file as samples.
#include "lockstep/data/token_windows.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/data/loader.h"
#include "lockstep/text/token_file.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

class TokenWindowsTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.file(name); }
  // Tokens 3 i mod vocabulary, in documents of ten.
  std::string sealed(const std::string& name, int64_t count, int64_t vocabulary) const {
    TokenFileDescription description;
    description.vocabulary_size = vocabulary;
    TokenFileWriter writer(path(name), description);
    for (int64_t i = 0; i < count; ++i) {
      const auto token = static_cast<int32_t>(3 * i % vocabulary);
      writer.add({&token, 1});
      if (i % 10 == 9) writer.end_document();
    }
    if (count % 10 != 0) writer.end_document();
    writer.finish();
    return path(name);
  }
  // As llm.c writes them: 1,024 bytes of header, uint16.
  std::string foreign(const std::string& name, const std::vector<uint16_t>& tokens) const {
    std::vector<int32_t> header(256, 0);
    header[0] = 20240520;
    header[1] = 1;
    header[2] = static_cast<int32_t>(tokens.size());
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(header.data()), 1024)
        .write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(tokens.size() * 2));
    return path(name);
  }

  testing::ScratchDirectory directory_;
};

TEST_F(TokenWindowsTest, TheTextOfAVocabularyTellsWhatStandsAroundDocuments) {
  using Token = std::optional<int32_t>;
  for (const auto& [begin, end] : {std::pair<Token, Token>{3, 47},
                                   {std::nullopt, 0},
                                   {49, std::nullopt},
                                   {std::nullopt, std::nullopt}}) {
    TokenFileDescription description;
    description.vocabulary_size = 50;
    description.tokenizer = "0123456789abcdef0123456789abcdef";
    description.begin = begin;
    description.end = end;
    TokenFileWriter writer(path("a.h5"), description);
    writer.add(std::vector<int32_t>{1, 2, 3, 4});
    writer.end_document();
    writer.finish();
    const std::string vocabulary = TokenWindows(path("a.h5"), 2, 0).description().vocabulary;
    EXPECT_EQ(document_tokens(vocabulary).begin, begin) << vocabulary;
    EXPECT_EQ(document_tokens(vocabulary).end, end) << vocabulary;
  }
  EXPECT_EQ(document_tokens("").end, std::nullopt);
}

TEST_F(TokenWindowsTest, TargetsAreTheNextTokens) {
  // 41 tokens: four windows of ten and the target of the last; a token less would make it three.
  const TokenWindows windows(sealed("a.h5", 41, 50), 10, 0);
  const DataDescription& description = windows.description();
  EXPECT_EQ(windows.size(), 4);
  EXPECT_EQ(TokenWindows(sealed("b.h5", 40, 50), 10, 0).size(), 3);
  EXPECT_EQ(description.classes, 50);
  EXPECT_EQ(description.sample_shape, Shape{10});
  EXPECT_EQ(description.positions, Shape{10});
  EXPECT_EQ(description.largest_index, 49);
  EXPECT_EQ(description.largest_index_row, 4);  // position 33
  MicroBatch batch(3, description.fields());
  const std::vector<int64_t> rows = {3, 0, 2};
  windows.gather(rows, batch.buffers());
  const auto inputs = batch.values<int32_t>(kInputsName), targets = batch.values<int32_t>(kTargetsName);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t t = 0; t < 10; ++t) {
      const int64_t at = rows[i] * 10 + static_cast<int64_t>(t);
      EXPECT_EQ(inputs[10 * i + t], 3 * at % 50);
      EXPECT_EQ(targets[10 * i + t], 3 * (at + 1) % 50);
    }
  }
}

// Numbers of documents in a window, and that nothing is learnt from one about the next.
TEST_F(TokenWindowsTest, MaskedDocumentsAreToldApart) {
  TokenFileDescription own;
  own.vocabulary_size = 100;
  TokenFileWriter writer(path("a.h5"), own);
  // Of 3, 0, 1, 5, 12 and 4 tokens: 25, which are four windows of 6 and the token behind them.
  std::vector<int> document_of;
  int number = 0;
  for (const int length : {3, 0, 1, 5, 12, 4}) {
    writer.add(std::vector<int32_t>(static_cast<size_t>(length), 7));
    writer.end_document();
    document_of.insert(document_of.end(), static_cast<size_t>(length), number++);
  }
  writer.finish();
  const TokenWindows windows(path("a.h5"), 6, 0, Documents::kMask);
  const DataDescription& description = windows.description();
  ASSERT_EQ(description.others.size(), 1u);
  EXPECT_EQ(description.others[0], (Field{kDocumentsName, DType::kI32, {6}}));
  EXPECT_TRUE(description.weighted);
  MicroBatch batch(4, description.fields());
  const std::vector<int64_t> rows = {2, 0, 3, 1};
  windows.gather(rows, batch.buffers());
  const auto documents = batch.values<int32_t>(kDocumentsName);
  const auto weights = batch.values<float>(kWeightsName);
  for (size_t i = 0; i < rows.size(); ++i) {
    int expected = 0;
    for (size_t t = 0; t < 6; ++t) {
      const size_t at = static_cast<size_t>(rows[i]) * 6 + t;
      if (t > 0 && document_of[at] != document_of[at - 1]) ++expected;
      EXPECT_EQ(documents[6 * i + t], expected) << rows[i] << " " << t;
      EXPECT_EQ(weights[6 * i + t], document_of[at] == document_of[at + 1] ? 1.0f : 0.0f)
          << rows[i] << " " << t;
    }
  }
  EXPECT_FALSE(TokenWindows(path("a.h5"), 6, 0).description().weighted);
  EXPECT_NE(TokenWindows(path("a.h5"), 6, 0).digest(), windows.digest());
}

// Files of llm.c tell it by the token before each document.
TEST_F(TokenWindowsTest, DocumentsOfForeignFilesBeginWithTheirToken) {
  const TokenWindows windows(foreign("a.bin", {50256, 1, 2, 50256, 3, 50256, 50256, 4, 5}), 4, 0,
                             Documents::kMask);
  MicroBatch batch(2, windows.description().fields());
  const std::vector<int64_t> rows = {0, 1};
  windows.gather(rows, batch.buffers());
  const auto documents = batch.values<int32_t>(kDocumentsName);
  EXPECT_EQ(std::vector(documents.begin(), documents.end()), (std::vector<int32_t>{0, 0, 0, 1, 0, 1, 2, 2}));
  const auto weights = batch.values<float>(kWeightsName);
  EXPECT_EQ(std::vector(weights.begin(), weights.end()), (std::vector<float>{1, 1, 0, 1, 0, 0, 1, 1}));
}

TEST_F(TokenWindowsTest, TokensThatDoNotCountWeighNothing) {
  TokenFileDescription own;
  own.vocabulary_size = 100;
  TokenFileWriter writer(path("a.h5"), own);
  for (int i = 0; i < 3; ++i) {
    writer.add(std::vector<int32_t>{1, 2, 3}, false);
    writer.add(std::vector<int32_t>{4, 5});
    writer.end_document();
  }
  writer.add_text_bytes(15);
  writer.finish();
  for (const Documents documents : {Documents::kJoin, Documents::kMask}) {
    const TokenWindows windows(path("a.h5"), 7, 0, documents);
    EXPECT_EQ(windows.description().bytes_per_target, 2.5);
    MicroBatch batch(2, windows.description().fields());
    const std::vector<int64_t> rows = {1, 0};
    windows.gather(rows, batch.buffers());
    const auto targets = batch.values<int32_t>(kTargetsName);
    const auto weights = batch.values<float>(kWeightsName);
    for (size_t i = 0; i < targets.size(); ++i) EXPECT_EQ(weights[i], targets[i] > 3 ? 1.0f : 0.0f) << i;
  }
}

TEST_F(TokenWindowsTest, TheDigestIsThatOfTheTokensAndTheContext) {
  const std::string digest = TokenWindows(sealed("a.h5", 100, 50), 10, 0).digest();
  EXPECT_EQ(TokenWindows(sealed("again.h5", 100, 50), 10, 0).digest(), digest);
  EXPECT_NE(TokenWindows(path("a.h5"), 11, 0).digest(), digest);
  EXPECT_NE(TokenWindows(sealed("b.h5", 101, 50), 10, 0).digest(), digest);
  EXPECT_NE(TokenWindows(sealed("c.h5", 100, 49), 10, 0).digest(), digest);

  std::vector<uint16_t> tokens(500000);
  std::iota(tokens.begin(), tokens.end(), uint16_t{0});
  for (uint16_t& token : tokens) token %= 50000;
  const std::string other = TokenWindows(foreign("a.bin", tokens), 10, 0).digest();
  EXPECT_EQ(TokenWindows(foreign("again.bin", tokens), 10, 0).digest(), other);
  for (const size_t changed : {size_t{0}, size_t{1000}, tokens.size() - 1}) {
    std::vector<uint16_t> wrong = tokens;
    wrong[changed] ^= 1;
    EXPECT_NE(TokenWindows(foreign("b.bin", wrong), 10, 0).digest(), other) << changed;
  }
  tokens.pop_back();
  EXPECT_NE(TokenWindows(foreign("c.bin", tokens), 10, 0).digest(), other);
}

TEST_F(TokenWindowsTest, IsOpenedByItsFormatWithTheContextOfItsKey) {
  sealed("a.h5", 100, 50);
  Configuration configuration = Configuration::parse("[data]\ncontext = 7", "test.toml", {});
  Section data = configuration.section("data");
  const DatasetOptions options{.path = path("a.h5"), .open = read_data_format(data, "tokens")};
  EXPECT_EQ(open_data_source(options)->size(), 14);
  expect_rejection(ErrorKind::kUsage, {path("a.h5"), "data.format = \"tokens\""},
                   [&] { open_data_source({.path = path("a.h5")}); });
}

TEST_F(TokenWindowsTest, KeysOfOtherFormatsAreRefused) {
  Configuration configuration = Configuration::parse("[data]\ncontext = 7", "test.toml", {});
  Section data = configuration.section("data");
  const DatasetOptions plain{.path = sealed("a.h5", 100, 50), .open = read_data_format(data, "tokens")};
  const auto refused = [&](const std::string& key, const auto& set) {
    DatasetOptions options = plain;
    set(options);
    expect_rejection(ErrorKind::kUsage, {path("a.h5") + ": data." + key, "of other formats than tokens"},
                     [&] { open_data_source(options); });
  };
  refused("target", [](DatasetOptions& options) { options.target = "kind"; });
  refused("labels", [](DatasetOptions& options) { options.labels = "l.idx"; });
  refused("classes = -1", [](DatasetOptions& options) { options.classes = -1; });
  refused("ignore_label", [](DatasetOptions& options) { options.ignore_label = 3; });
  refused("follow", [](DatasetOptions& options) { options.follow = true; });
}

TEST_F(TokenWindowsTest, WhatCannotBeIsRefused) {
  sealed("a.h5", 10, 50);
  expect_rejection(ErrorKind::kUsage, {path("a.h5"), "context must be at least 1, got 0"},
                   [&] { TokenWindows(path("a.h5"), 0, 0); });
  expect_rejection(ErrorKind::kData, {path("a.h5"), "10 tokens", "need 11"},
                   [&] { TokenWindows(path("a.h5"), 10, 0); });
  // The largest of 0, 3, ..., 27, at the end.
  expect_rejection(ErrorKind::kData, {path("a.h5"), "token 27 at position 9", "[0, 27)"},
                   [&] { TokenWindows(path("a.h5"), 5, 27); });
  EXPECT_EQ(TokenWindows(path("a.h5"), 5, 28).description().classes, 28);
  expect_rejection(ErrorKind::kData, {path("a.h5"), "[0, 20); its tokenizer has 50"},
                   [&] { TokenWindows(path("a.h5"), 5, 20); });
  // A file that does not know its largest token is looked through.
  expect_rejection(ErrorKind::kData, {path("a.bin"), "token 900 at position 3", "[0, 100)"}, [&] {
    TokenWindows(foreign("a.bin", {1, 2, 3, 900, 5, 6, 7, 8, 9}), 2, 100);
  });
}

// Zeros but for one token, which are holes of the file: too many to look through at the start.
TEST_F(TokenWindowsTest, LongFilesAreLookedAtWindowByWindow) {
  foreign("a.bin", {});
  constexpr int32_t kTokens = (1 << 27) + 5;
  std::filesystem::resize_file(path("a.bin"), 1024 + 2 * int64_t{kTokens});
  std::fstream file(path("a.bin"), std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(8).write(reinterpret_cast<const char*>(&kTokens), sizeof kTokens);
  const uint16_t outside = 900;
  file.seekp(1024 + 2 * 7).write(reinterpret_cast<const char*>(&outside), sizeof outside);
  file.close();
  const TokenWindows windows(path("a.bin"), 2, 100);
  MicroBatch batch(1, windows.description().fields());
  for (const int64_t good : {0, 2, 4, kTokens / 2 - 1}) windows.gather({&good, 1}, batch.buffers());
  const int64_t bad = 3;
  expect_rejection(ErrorKind::kData, {path("a.bin"), "token 900 at position 7", "[0, 100)"}, [&] {
    windows.gather({&bad, 1}, batch.buffers());
  });
}

}  // namespace
}  // namespace lockstep
