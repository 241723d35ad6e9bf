// Token files: our own with their seals, llm.c's and Megatron's; what is damaged is named.
#include "lockstep/text/token_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/mapped_file.h"
#include "lockstep/hdf5/file.h"
#include "lockstep/hdf5/sealed_file.h"

namespace lockstep {
namespace {

using testing::bytes_of;
using testing::expect_rejection;

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

template <class... Values>
std::string packed(const Values&... values) {
  std::string bytes;
  (bytes.append(reinterpret_cast<const char*>(&values), sizeof values), ...);
  return bytes;
}

template <class Stored>
std::string packed_all(const std::vector<int>& values) {
  std::string bytes;
  for (const int value : values) bytes += packed(static_cast<Stored>(value));
  return bytes;
}

std::vector<int32_t> all_tokens(const TokenFile& file) {
  std::vector<int32_t> tokens(static_cast<size_t>(file.size()));
  file.read(0, tokens);
  return tokens;
}

class TokenFiles : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.file(name); }
  // Three documents, the second one empty.
  TokenFileDescription write_sealed(const std::string& to, int64_t vocabulary) {
    TokenFileDescription description;
    description.vocabulary_size = vocabulary;
    description.tokenizer = "0123456789abcdef0123456789abcdef";
    description.end = 7;
    TokenFileWriter writer(to, description);
    writer.add(std::vector<int32_t>{5, 6});
    writer.add(std::vector<int32_t>{static_cast<int32_t>(vocabulary) - 1});
    writer.end_document();
    writer.end_document();
    writer.add(std::vector<int32_t>{1, 2, 3, 4});
    writer.end_document();
    return writer.finish();
  }
  void reject(const std::string& name, std::initializer_list<std::string> parts) {
    expect_rejection(ErrorKind::kData, parts, [&] { open_token_file(path(name)); });
  }
  testing::ScratchDirectory directory_;
};

TEST_F(TokenFiles, OwnOnesReadBackWithTheirDocuments) {
  for (const int64_t vocabulary : {50257, 65536, 65537, 200000}) {
    const std::string name = path(std::to_string(vocabulary) + ".h5");
    const TokenFileDescription made = write_sealed(name, vocabulary);
    EXPECT_EQ(made.tokens, 7);
    const auto file = open_token_file(name);
    const TokenFileDescription& found = file->description();
    EXPECT_EQ(found.bytes_per_token, vocabulary <= 65536 ? 2 : 4);
    EXPECT_EQ(found.vocabulary_size, vocabulary);
    EXPECT_EQ(found.tokenizer, "0123456789abcdef0123456789abcdef");
    EXPECT_EQ(found.begin, std::nullopt);
    EXPECT_EQ(found.end, 7);
    EXPECT_EQ(found.largest, vocabulary - 1);
    EXPECT_EQ(found.largest_position, 2);
    EXPECT_EQ(all_tokens(*file),
              (std::vector<int32_t>{5, 6, static_cast<int32_t>(vocabulary) - 1, 1, 2, 3, 4}));
    ASSERT_EQ(found.documents, 3);
    std::vector<int64_t> begins;
    for (int64_t i = 0; i <= 3; ++i) begins.push_back(file->document_begin(i));
    EXPECT_EQ(begins, (std::vector<int64_t>{0, 3, 3, 7}));
    EXPECT_EQ(file->document_of(2), 0);
    EXPECT_EQ(file->document_of(3), 2);
    EXPECT_EQ(file->document_of(6), 2);
    std::vector<int32_t> part(2);
    file->read(3, part);
    EXPECT_EQ(part, (std::vector<int32_t>{1, 2}));
    file->read_ahead(0, 7);
  }
}

TEST_F(TokenFiles, WhichTokensCountIsKept) {
  const std::string name = path("counted.h5");
  TokenFileDescription description;
  description.vocabulary_size = 300;
  std::vector<float> expected;
  {
    TokenFileWriter writer(name, description);
    for (int i = 0; i < 1003; ++i) {
      const auto count = static_cast<size_t>(i % 13);
      const bool counts = i % 3 == 1;
      writer.add(std::vector<int32_t>(count, i % 300), counts);
      expected.insert(expected.end(), count, counts ? 1.0f : 0.0f);
      if (i % 5 == 0) writer.end_document();
    }
    writer.end_document();
    writer.add_text_bytes(1000);
    writer.add_text_bytes(234);
    writer.finish();
  }
  const auto file = open_token_file(name);
  EXPECT_EQ(file->description().counted, std::count(expected.begin(), expected.end(), 1.0f));
  EXPECT_EQ(file->description().text_bytes, 1234);
  for (const auto& [first, count] :
       {std::pair<int64_t, int64_t>{0, std::ssize(expected)}, {3, 8}, {17, 1}, {64, 700}}) {
    std::vector<float> weights(static_cast<size_t>(count));
    file->read_weights(first, weights);
    EXPECT_TRUE(std::equal(weights.begin(), weights.end(), expected.begin() + first)) << first;
  }
  // Where all count, nothing is kept of it.
  write_sealed(path("all.h5"), 300);
  const auto all = open_token_file(path("all.h5"));
  EXPECT_EQ(all->description().counted, -1);
  std::vector<float> ones(7);
  all->read_weights(0, ones);
  EXPECT_EQ(ones, std::vector<float>(7, 1.0f));
  // A bit of them is as good as one of a token.
  const auto content = verify_outline(name, ErrorKind::kData);
  ASSERT_TRUE(content && content->arrays.size() == 3);
  std::fstream(name, std::ios::binary | std::ios::in | std::ios::out)
      .seekp(content->arrays[2].offset + 9)
      .put('\x55');
  const auto damaged = open_token_file(name);
  std::vector<float> weights(10);
  expect_rejection(ErrorKind::kData, {name, "damaged", "block 0 of /counted"},
                   [&] { damaged->read_weights(70, weights); });
}

TEST_F(TokenFiles, OtherProgramsReadOwnOnesThroughHdf5) {
  const std::string name = path("tokens.h5");
  write_sealed(name, 70000);
  const Hdf5File file = Hdf5File::open(name, ErrorKind::kData);
  std::vector<int64_t> tokens(7), documents(4);
  file.read("/tokens", DType::kI64, tokens.data());
  file.read("/documents", DType::kI64, documents.data());
  EXPECT_EQ(tokens, (std::vector<int64_t>{5, 6, 69999, 1, 2, 3, 4}));
  EXPECT_EQ(documents, (std::vector<int64_t>{0, 3, 3, 7}));
}

TEST_F(TokenFiles, TheSameTokensMakeTheSameBytes) {
  write_sealed(path("a.h5"), 50257);
  write_sealed(path("b.h5"), 50257);
  EXPECT_EQ(bytes_of(path("a.h5")), bytes_of(path("b.h5")));
  EXPECT_EQ(open_token_file(path("a.h5"))->digest().size(), 32u);
  write_sealed(path("c.h5"), 50258);
  EXPECT_NE(open_token_file(path("a.h5"))->digest(), open_token_file(path("c.h5"))->digest());
}

TEST_F(TokenFiles, BlocksAreVerifiedWhenTheyAreUsed) {
  const std::string name = path("long.h5");
  TokenFileDescription description;
  description.vocabulary_size = 65536;
  std::vector<int32_t> tokens(3 * kBlockBytes / 2 + 5);  // three blocks and a bit
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 40503 % 65536);
  {
    TokenFileWriter writer(name, description);
    writer.add(tokens);
    writer.end_document();
    writer.finish();
  }
  EXPECT_EQ(all_tokens(*open_token_file(name)), tokens);
  // A bit of the second block.
  const auto content = verify_outline(name, ErrorKind::kData);
  ASSERT_TRUE(content);
  std::fstream file(name, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(content->arrays[0].offset + kBlockBytes + 17);
  file.put('\x55');
  file.close();
  const auto damaged = open_token_file(name);
  std::vector<int32_t> part(1000);
  damaged->read(0, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), tokens.begin()));
  expect_rejection(ErrorKind::kData, {name, "damaged", "block 1 of /tokens"},
                   [&] { damaged->read(kBlockBytes / 2 - 500, part); });
}

// The seal of a file whose program counted wrong is whole.
// What was verified before is no longer in the file.
TEST_F(TokenFiles, OwnOnesThatChangeWhileTheyAreInUseAreNamed) {
  outlive_bus_errors();
  write_sealed(path("a.h5"), 300);
  const std::string bytes = bytes_of(path("a.h5"));
  const size_t at = bytes.find(packed(uint16_t{5}, uint16_t{6}, uint16_t{299}));
  ASSERT_NE(at, std::string::npos);
  for (const bool shorter : {false, true}) {
    write_bytes(path("a.h5"), bytes);
    std::filesystem::last_write_time(path("a.h5"),
                                     std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
    const auto file = open_token_file(path("a.h5"));
    EXPECT_EQ(all_tokens(*file)[0], 5);
    EXPECT_EQ(file->document_begin(2), 3);
    if (shorter) {
      std::filesystem::resize_file(path("a.h5"), 4096);
    } else {
      std::fstream(path("a.h5"), std::ios::binary | std::ios::in | std::ios::out)
          .seekp(static_cast<std::streamoff>(at))
          .put('\4');
    }
    const char* const said = shorter ? "has become shorter" : "block 0 of /tokens";
    expect_rejection(ErrorKind::kData, {path("a.h5"), said}, [&] { all_tokens(*file); });
    if (shorter) expect_rejection(ErrorKind::kData, {path("a.h5"), said}, [&] { file->document_begin(2); });
  }
}

TEST_F(TokenFiles, DocumentsThatDoNotHoldAllTokensAreRefused) {
  const std::string name = path("forged.h5");
  for (const auto& [entry, value] : {std::pair<int64_t, int64_t>{3, 6}, {0, 1}}) {
    write_sealed(name, 50257);
    auto content = verify_outline(name, ErrorKind::kData);
    ASSERT_TRUE(content && content->arrays.size() == 2);
    std::string bytes = bytes_of(name);
    const BlockedArray& documents = content->arrays[1];
    std::memcpy(bytes.data() + documents.offset + 8 * entry, &value, sizeof value);
    int64_t table = 0;
    std::memcpy(&table, bytes.data() + 56, sizeof table);
    const Digest digest =
        digest_of(std::as_bytes(std::span(bytes))
                      .subspan(static_cast<size_t>(documents.offset), static_cast<size_t>(documents.bytes)));
    std::memcpy(bytes.data() + table + std::ssize(digest), digest.data(), digest.size());
    write_bytes(name, bytes);
    seal_blocked_file(name, ErrorKind::kData, content->arrays, table);
    reject("forged.h5", {"forged.h5", "its documents begin at", "tokens 0 to 7"});
  }
}

TEST_F(TokenFiles, TheWriterRefusesWhatIsWrong) {
  TokenFileDescription description;
  description.vocabulary_size = 100;
  {
    TokenFileWriter writer(path("x.h5"), description);
    expect_rejection(ErrorKind::kData, {"token 0 is 100", "vocabulary of 100"},
                     [&] { writer.add(std::vector<int32_t>{100}); });
    expect_rejection(ErrorKind::kData, {"no tokens"}, [&] { writer.finish(); });
  }
  {
    TokenFileWriter writer(path("x.h5"), description);
    writer.add(std::vector<int32_t>{1, 2}, false);
    writer.end_document();
    expect_rejection(ErrorKind::kData, {"x.h5", "none of 2 tokens counts"}, [&] { writer.finish(); });
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path())) << "something is left of an unfinished file";
  write_bytes(path("book.txt"), "once upon a time");
  expect_rejection(ErrorKind::kUsage, {"book.txt", "not replaced"},
                   [&] { TokenFileWriter writer(path("book.txt"), description); });
  expect_rejection(ErrorKind::kUsage, {"there is no directory"},
                   [&] { TokenFileWriter writer(path("no/x.h5"), description); });
  write_sealed(path("y.h5"), 100);
  write_sealed(path("y.h5"), 100);  // one of tokens is replaced
}

TEST_F(TokenFiles, AFullDiskIsSaidAndLeavesNothing) {
  const testing::SmallDisk disk("3m");
  if (!disk.mounted()) GTEST_SKIP() << "mounting is not permitted";
  TokenFileDescription description;
  description.vocabulary_size = 100;
  const std::vector<int32_t> megabyte(size_t{1} << 19, 7);
  // The tokens themselves have no room; or they have, and their copy in the file has none.
  for (const int megabytes : {5, 2}) {
    expect_rejection(ErrorKind::kData, {"x.h5", "No space left on device"}, [&] {
      TokenFileWriter writer(disk.file("x.h5"), description);
      for (int i = 0; i < megabytes; ++i) writer.add(megabyte);
      writer.end_document();
      writer.finish();
    });
    EXPECT_TRUE(std::filesystem::is_empty(disk.path()));
  }
}

TEST_F(TokenFiles, ReadsLlmcsFiles) {
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = 4;
  const std::string start = packed_all<int32_t>(header);
  const std::string good = start + packed_all<uint16_t>({50256, 1, 2, 65535});
  write_bytes(path("a.bin"), good);
  const auto gpt2 = open_token_file(path("a.bin"));
  EXPECT_EQ(all_tokens(*gpt2), (std::vector<int32_t>{50256, 1, 2, 65535}));
  EXPECT_EQ(gpt2->description().documents, -1);
  EXPECT_EQ(gpt2->description().begin, 50256);
  write_bytes(path("a.bin"), good.substr(0, good.size() - 2));
  reject("a.bin", {"a.bin", "4 tokens", "hold 3"});
  write_bytes(path("a.bin"), good.substr(0, good.size() - 1));
  reject("a.bin", {"a.bin", "4 tokens"});
  write_bytes(path("a.bin"), good.substr(0, 100));
  reject("a.bin", {"a.bin", "truncated"});
  header[1] = 2;
  write_bytes(path("a.bin"), packed_all<int32_t>(header));
  reject("a.bin", {"a.bin", "version 2"});
  header[0] = 20240801;
  header[1] = 7;
  header[2] = 2;
  write_bytes(path("b.bin"), packed_all<int32_t>(header) + packed(uint32_t{128000}, uint32_t{3000000000u}));
  const auto llama = open_token_file(path("b.bin"));
  std::vector<int32_t> one(1);
  llama->read(0, one);
  EXPECT_EQ(one[0], 128000);
  expect_rejection(ErrorKind::kData, {"b.bin", "token 1 is 3000000000"}, [&] { llama->read(1, one); });
}

// Without digests nobody knows what of it has changed.
TEST_F(TokenFiles, OthersThatAreWrittenToWhileTheyAreInUseAreNamed) {
  std::vector<int> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = 3;
  write_bytes(path("a.bin"), packed_all<int32_t>(header) + packed_all<uint16_t>({4, 5, 6}));
  std::filesystem::last_write_time(path("a.bin"),
                                   std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const auto file = open_token_file(path("a.bin"));
  EXPECT_EQ(all_tokens(*file), (std::vector<int32_t>{4, 5, 6}));
  std::fstream(path("a.bin"), std::ios::binary | std::ios::in | std::ios::out).seekp(1024).put('\7');
  expect_rejection(ErrorKind::kData, {path("a.bin"), "has been written to while it is in use"},
                   [&] { all_tokens(*file); });
}

// Sparse: 5 GB that take no place.
TEST_F(TokenFiles, ReadsBeyondTwoToThe31stToken) {
  constexpr int64_t kTokens = (int64_t{1} << 31) + 1000;
  const std::string name = path("large.bin");
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = static_cast<int32_t>(static_cast<uint32_t>(kTokens));  // what 32 bits hold of it
  {
    std::ofstream file(name, std::ios::binary);
    file << packed_all<int32_t>(header);
    file.seekp(1024 + 2 * (kTokens - 2));
    file << packed(uint16_t{11}, uint16_t{22});
    if (!file) GTEST_SKIP() << "no room for a sparse file of " << 2 * kTokens << " bytes";
  }
  const auto file = open_token_file(name);
  EXPECT_EQ(file->size(), kTokens);
  std::vector<int32_t> last(3);
  file->read(kTokens - 3, last);
  EXPECT_EQ(last, (std::vector<int32_t>{0, 11, 22}));
}

class Megatron : public TokenFiles {
 protected:
  // Documents {1, 2 | 3} and {4, 5, 6}: three sequences.
  void write(uint8_t type, const std::string& tokens, int width) {
    index_ = std::string("MMIDIDX\0\0", 9) + packed(uint64_t{1}, type, uint64_t{3}, uint64_t{3}, int32_t{2},
                                                    int32_t{1}, int32_t{3}, int64_t{0}, int64_t{2 * width},
                                                    int64_t{3 * width}, int64_t{0}, int64_t{2}, int64_t{3});
    write_bytes(path("corpus.idx"), index_);
    write_bytes(path("corpus.bin"), tokens);
  }
  void patched(size_t offset, const std::string& bytes) {
    std::string changed = index_;
    changed.replace(offset, bytes.size(), bytes);
    write_bytes(path("corpus.idx"), changed);
  }
  std::string index_;
};

TEST_F(Megatron, PairsAreReadByAnyOfTheirNames) {
  const std::vector<std::pair<uint8_t, std::pair<int, std::string>>> types = {
      {8, {2, packed_all<uint16_t>({1, 2, 3, 4, 5, 6})}},
      {4, {4, packed_all<int32_t>({1, 2, 3, 4, 5, 6})}},
      {5, {8, packed_all<int64_t>({1, 2, 3, 4, 5, 6})}},
      {1, {1, packed_all<uint8_t>({1, 2, 3, 4, 5, 6})}},
  };
  for (const auto& [type, stored] : types) {
    write(type, stored.second, stored.first);
    for (const char* name : {"corpus", "corpus.bin", "corpus.idx"}) {
      const auto file = open_token_file(path(name));
      EXPECT_EQ(all_tokens(*file), (std::vector<int32_t>{1, 2, 3, 4, 5, 6}));
      ASSERT_EQ(file->description().documents, 2);
      EXPECT_EQ(file->document_begin(0), 0);
      EXPECT_EQ(file->document_begin(1), 3);
      EXPECT_EQ(file->document_begin(2), 6);
    }
  }
}

TEST_F(Megatron, DamagedIndicesAreRefused) {
  write(8, packed_all<uint16_t>({1, 2, 3, 4, 5, 6}), 2);
  patched(0, "X");
  reject("corpus", {"corpus.idx", "MMIDIDX"});
  patched(9, packed(uint64_t{2}));
  reject("corpus", {"corpus.idx", "version 2"});
  patched(17, "\x06");
  reject("corpus", {"corpus.idx", "type 6"});
  patched(18, packed(~uint64_t{0}));
  reject("corpus", {"corpus.idx", "sequences"});
  patched(26, packed(uint64_t{1} << 62));
  reject("corpus", {"corpus.idx", "entries"});
  patched(34 + 8, packed(int32_t{4}));  // the last sequence longer than the file
  reject("corpus", {"corpus.idx", "last sequence"});
  patched(34 + 12 + 24 + 16, packed(int64_t{2}));
  reject("corpus", {"corpus.idx", "documents"});
  write_bytes(path("corpus.idx"), index_.substr(0, index_.size() - 1));
  reject("corpus", {"corpus.idx", "bytes"});
  patched(34 + 12 + 24 + 8, packed(int64_t{77}));  // found when it is used
  const auto file = open_token_file(path("corpus"));
  expect_rejection(ErrorKind::kData, {"corpus.idx", "document 1", "sequence 77"},
                   [&] { file->document_begin(1); });
}

TEST_F(TokenFiles, WhatHoldsNoTokensIsRefused) {
  write_bytes(path("text.bin"), "once upon a time there was a file");
  reject("text.bin", {"text.bin", "truncated: the header has 1024 bytes"});
  write_bytes(path("text.bin"), std::string(2048, 'x'));
  reject("text.bin", {"text.bin", "magic 2021161080: 20240520 and 20240801 are of tokens"});
  write_bytes(path("text.h5"), std::string(2048, 'x'));
  reject("text.h5", {"text.h5", "neither a sealed file nor plain HDF5"});
  reject("nothing.bin", {"nothing.bin", "no such file"});
  write_bytes(path("empty.bin"), "");
  reject("empty.bin", {"empty.bin", "empty"});
  // Nobody waits at pipes into which nobody writes.
  for (const char* name : {"pipe", "pipe.bin", "pipe.idx"}) {
    ASSERT_EQ(::mkfifo(path(name).c_str(), 0600), 0);
    reject(name, {name, "is not a regular file"});
  }
  std::filesystem::create_directory(path("shards"));
  reject("shards", {"shards", "is not a regular file"});
}

}  // namespace
}  // namespace lockstep
