// A corpus into a token file: every kind of file, the same bytes on any number of threads, places to cut.
#include "lockstep/text/tokenize.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <thread>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"
#include "text/files.h"

namespace lockstep {
namespace {

using nlohmann::json;
using testing::bytes_of;
using testing::expect_rejection;
using testing::kFiles;
using testing::read_json;
using testing::write_text;

void write_gzip(const std::string& path, const std::string& text) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
}

// In two frames, as pzstd and `cat` make them.
void write_zstd(const std::string& path, const std::string& text) {
  std::string all;
  for (const std::string& part : {text.substr(0, text.size() / 2), text.substr(text.size() / 2)}) {
    std::string packed(ZSTD_compressBound(part.size()), '\0');
    packed.resize(ZSTD_compress(packed.data(), packed.size(), part.data(), part.size(), 3));
    all += packed;
  }
  write_text(path, all);
}

// As `zstd --long=28` packs it.
void write_long_zstd(const std::string& path, const std::string& text) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 1);
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 28);
  std::string packed(ZSTD_compressBound(text.size()) + 64, '\0');
  ZSTD_inBuffer in{text.data(), text.size(), 0};
  ZSTD_outBuffer out{packed.data(), packed.size(), 0};
  ZSTD_compressStream2(context, &out, &in, ZSTD_e_continue);  // it does not know the size when it begins
  ASSERT_EQ(ZSTD_compressStream2(context, &out, &in, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  write_text(path, packed.substr(0, out.pos));
}

// English and other text, enough for several chunks.
std::string long_text(size_t bytes) {
  const json texts = read_json(kFiles + "expected.json")["texts"];
  std::string text;
  for (size_t i = 0; text.size() < bytes; ++i) {
    text += texts[i % texts.size()].get<std::string>();
    text += i % 3 == 0 ? " and he said\n" : " the word of";
  }
  return text;
}

class Tokenize : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.file(name); }
  TokenFileDescription run(std::vector<std::string> inputs, const std::string& output = "out.h5") {
    options_.corpus.inputs = std::move(inputs);
    return tokenize(options_, *tokenizer_, path(output));
  }
  // The tokens of each document.
  std::vector<std::vector<int32_t>> documents(const std::string& name = "out.h5") {
    const auto file = open_token_file(path(name));
    std::vector<std::vector<int32_t>> found;
    for (int64_t i = 0; i < file->description().documents; ++i) {
      const int64_t begin = file->document_begin(i), end = file->document_begin(i + 1);
      file->read(begin, found.emplace_back(static_cast<size_t>(end - begin)));
    }
    return found;
  }
  std::vector<int32_t> ids(const std::string& text) {
    return tokenizer_->encode(text, SpecialSpelling::kText);
  }

  testing::ScratchDirectory directory_;
  std::unique_ptr<Tokenizer> tokenizer_ = open_tokenizer({.path = kFiles + "llama3.json"});
  TokenizeOptions options_;
};

TEST_F(Tokenize, EveryKindOfFileIsRead) {
  const std::string lines =
      "{\"text\": \"one\"}\n\n{\"id\": 3, \"text\": \"two\\n\\u00e9\"}\r\n{\"text\": \"\"}";
  write_text(path("corpus/a.txt"), "plain");
  write_gzip(path("corpus/b.txt.gz"), "packed");
  write_zstd(path("corpus/c.txt.zst"), "denser packed");
  write_text(path("corpus/sub/d.jsonl"), lines);
  write_zstd(path("corpus/sub/e.jsonl.zst"), lines);
  write_gzip(path("corpus/sub/f.ndjson.gz"), lines);
  write_text(path("corpus/ignored.md"), "not text for training");
  write_text(path("corpus/.hidden.txt"), "not for training either");
  write_text(path("corpus/.git/d.txt"), "nor this");
  write_text(path("corpus/z.txt"), "");
  write_text(path("named.md"), "# named");
  const TokenFileDescription made = run({path("corpus"), path("named.md")});
  EXPECT_EQ(made.tokenizer, tokenizer_->digest());
  std::vector<std::vector<int32_t>> expected = {ids("plain"), ids("packed"), ids("denser packed")};
  for (int i = 0; i < 3; ++i)
    for (const char* text : {"one", "two\n\xC3\xA9", ""}) expected.push_back(ids(text));
  expected.push_back({});
  expected.push_back(ids("# named"));
  EXPECT_EQ(documents(), expected);
}

TEST_F(Tokenize, LongWindowsAreUnpacked) {
  write_long_zstd(path("a.txt.zst"), "packed with a window of 256 MiB");
  run({path("a.txt.zst")});
  EXPECT_EQ(documents(), (std::vector<std::vector<int32_t>>{ids("packed with a window of 256 MiB")}));
}

TEST_F(Tokenize, TokensStandBeforeAndBehindEachDocument) {
  write_text(path("a.txt"), "a <|endoftext|>");
  write_text(path("b.txt"), "b");
  options_.begin = 480;
  options_.end = 481;
  run({path("b.txt"), path("a.txt")});
  std::vector<int32_t> a = {480}, b = {480};
  for (const int32_t id : ids("a <|endoftext|>")) a.push_back(id);
  for (const int32_t id : ids("b")) b.push_back(id);
  a.push_back(481);
  b.push_back(481);
  EXPECT_EQ(documents(), (std::vector<std::vector<int32_t>>{b, a}));
  EXPECT_EQ(open_token_file(path("out.h5"))->description().begin, 480);
  options_.spelling = SpecialSpelling::kToken;
  run({path("a.txt")});
  EXPECT_EQ(documents()[0].size(), 2 + tokenizer_->encode("a <|endoftext|>").size());
}

// As users of other trainers expect: what is answered counts, with what ends it; what is asked does not.
TEST_F(Tokenize, PromptsDoNotCount) {
  write_text(path("a.jsonl"),
             R"({"question": "one and one?", "answer": " two"}
{"question": "", "answer": "three"}
{"question": "silence?", "answer": ""}
)");
  options_.corpus.prompt = "question";
  options_.corpus.field = "answer";
  options_.begin = 480;
  options_.end = 481;
  const TokenFileDescription made = run({path("a.jsonl")});
  std::vector<std::vector<int32_t>> expected;
  std::vector<float> counts;
  for (const auto& [prompt, text] : {std::pair("one and one?", " two"), {"", "three"}, {"silence?", ""}}) {
    expected.push_back({480});
    for (const int32_t id : ids(prompt)) expected.back().push_back(id);
    counts.resize(counts.size() + expected.back().size(), 0.0f);
    for (const int32_t id : ids(text)) expected.back().push_back(id);
    expected.back().push_back(481);
    counts.resize(counts.size() + ids(text).size() + 1, 1.0f);
  }
  EXPECT_EQ(documents(), expected);
  const auto file = open_token_file(path("out.h5"));
  std::vector<float> found(static_cast<size_t>(file->size()));
  file->read_weights(0, found);
  EXPECT_EQ(found, counts);
  EXPECT_EQ(made.text_bytes, 9);
  EXPECT_EQ(file->description().counted, std::count(counts.begin(), counts.end(), 1.0f));

  write_text(path("b.txt"), "no fields");
  expect_rejection(ErrorKind::kUsage, {"b.txt", "no field \"question\""}, [&] { run({path("b.txt")}); });
  write_text(path("c.jsonl"), R"({"question": "one and one?"})");
  expect_rejection(ErrorKind::kData, {"c.jsonl", "line 1", "no field \"answer\""},
                   [&] { run({path("c.jsonl")}); });
  // As where --completion is left out: every document would stand there twice.
  options_.corpus.field = "question";
  expect_rejection(ErrorKind::kUsage, {"--prompt", "--completion", "\"question\""},
                   [&] { run({path("a.jsonl")}); });
}

// torchtitan's users trained for weeks with two of them.
TEST_F(Tokenize, ATokenThatStandsBeforeADocumentAlreadyIsNotDoubled) {
  write_text(path("a.jsonl"), "{\"text\": \"x\"}\n{\"text\": \"<|begin_of_text|>a\"}\n");
  options_.begin = tokenizer_->special_token("<|begin_of_text|>");
  ASSERT_TRUE(options_.begin);
  run({path("a.jsonl")});  // letters
  options_.spelling = SpecialSpelling::kToken;
  expect_rejection(ErrorKind::kData, {"a.jsonl", "line 2", "--begin"}, [&] { run({path("a.jsonl")}); });
  options_.begin.reset();
  run({path("a.jsonl")});
}

TEST_F(Tokenize, ALongDocumentHasTheTokensThatItHasInOnePiece) {
  const std::string text = long_text(3 << 20);
  write_text(path("long.txt"), text);
  std::string first;
  for (const std::string name : {"llama3.json", "gpt2.json", "qwen2.json", "bytes"}) {
    tokenizer_ = open_tokenizer({.path = name == "bytes" ? name : kFiles + name});
    for (const int threads : {1, 3}) {
      set_threads(threads);
      run({path("long.txt")});
      const auto found = documents();
      ASSERT_EQ(found.size(), 1u);
      EXPECT_TRUE(found[0] == ids(text)) << name;
      if (threads == 1) first = bytes_of(path("out.h5"));
      EXPECT_TRUE(bytes_of(path("out.h5")) == first) << name << ": the file depends on the threads";
    }
  }
  set_threads(1);
}

// The claim behind it, at every place of short texts.
TEST_F(Tokenize, CutsChangeNoToken) {
  const json texts = read_json(kFiles + "expected.json")["texts"];
  std::vector<std::unique_ptr<Tokenizer>> tokenizers;
  for (const char* name : {"gpt2.json", "llama3.json", "qwen2.json"})
    tokenizers.push_back(open_tokenizer({.path = kFiles + name}));
  for (const char* pattern : {"gpt2", "cl100k", "o200k", "llama3", "qwen2"})
    tokenizers.push_back(open_tokenizer({.path = kFiles + "small.tiktoken", .pattern = pattern}));
  int64_t cuts = 0;
  for (const auto& tokenizer : tokenizers) {
    const auto encoder = tokenizer->encoder(SpecialSpelling::kToken);
    for (size_t i = 0; i < texts.size(); ++i) {
      // Line feeds and blanks between all kinds of characters.
      const std::string text = texts[i].get<std::string>() + "\n" +
                               texts[(i + 7) % texts.size()].get<std::string>() + "\n" +
                               texts[(i + 3) % texts.size()].get<std::string>() + " end of it";
      std::vector<int32_t> whole, parts;
      encoder->encode(text, whole);
      size_t last = 0;
      for (size_t end = 1; end <= text.size(); ++end) {
        const size_t at = tokenizer->cut(std::string_view(text).substr(0, end));
        if (at == 0 || at == last) continue;
        last = at;
        ++cuts;
        parts.clear();
        encoder->encode(std::string_view(text).substr(0, at), parts);
        encoder->encode(std::string_view(text).substr(at), parts);
        ASSERT_EQ(parts, whole) << json(text).dump() << " cut at " << at;
      }
    }
  }
  EXPECT_GT(cuts, 500);
}

TEST_F(Tokenize, FaultsInTheCorpusAreNamed) {
  const auto rejected = [&](ErrorKind kind, std::initializer_list<std::string> parts,
                            const std::string& input) {
    expect_rejection(kind, parts, [&] { run({path(input)}); });
    EXPECT_FALSE(std::filesystem::exists(path("out.h5")));
  };
  write_text(path("a.jsonl"), "{\"text\": \"one\"}\n{\"text\": \n");
  rejected(ErrorKind::kData, {"a.jsonl", "line 2", "is not JSON"}, "a.jsonl");
  write_text(path("a.jsonl"), "{\"text\": \"one\"}\n\n[1]\n");
  rejected(ErrorKind::kData, {"a.jsonl", "line 3", "object"}, "a.jsonl");
  write_text(path("a.jsonl"), "{\"content\": \"one\"}\n");
  rejected(ErrorKind::kData, {"a.jsonl", "line 1", "no field \"text\""}, "a.jsonl");
  write_text(path("a.jsonl"), "{\"text\": 3}\n");
  rejected(ErrorKind::kData, {"a.jsonl", "line 1", "must be a text: got "}, "a.jsonl");
  write_text(path("a.jsonl"), "{\"text\": \"one\"}\n{\"text\": \"two\"}" + std::string(1, '\0') + "junk\n");
  rejected(ErrorKind::kData, {"a.jsonl", "line 2", "is not JSON: byte 16 is 0"}, "a.jsonl");
  write_zstd(path("b.txt.zst"), long_text(1000));
  const std::string packed = bytes_of(path("b.txt.zst"));
  write_text(path("b.txt.zst"), packed.substr(0, packed.size() - 3));
  rejected(ErrorKind::kData, {"b.txt.zst", "zstd"}, "b.txt.zst");
  for (const std::string& magic :
       {std::string("BZh91AY&SY"), std::string("PAR1"), std::string("\xff\xfe\x41\0", 4),
        std::string("\x89HDF\r\n\x1a\n"), std::string("\x89LOCKSTEP-SEAL\r\n")}) {
    write_text(path("d.txt"), magic + "something");
    rejected(ErrorKind::kData, {"d.txt", "is no text but"}, "d.txt");
  }
  write_text(path("e.json"), "{\"text\": \"one\"}\n");
  rejected(ErrorKind::kUsage, {"e.json", ".jsonl"}, "e.json");
  std::filesystem::create_directories(path("links"));
  write_text(path("links/a.txt"), "one");
  std::filesystem::create_symlink("/nowhere", path("links/b.txt"));
  rejected(ErrorKind::kUsage, {"links/b.txt", "cannot be read"}, "links");
  write_text(path("c.txt"), "");
  rejected(ErrorKind::kData, {"out.h5", "no tokens"}, "c.txt");
  rejected(ErrorKind::kUsage, {"nothing", "no such file"}, "nothing");
  std::filesystem::create_directories(path("empty"));
  rejected(ErrorKind::kUsage, {"empty", ".jsonl"}, "empty");
  std::filesystem::remove_all(path("empty"));
  options_.corpus.field = "content";
  write_text(path("a.jsonl"), "{\"content\": \"one\"}\n");
  run({path("a.jsonl")});
  EXPECT_EQ(documents(), (std::vector<std::vector<int32_t>>{ids("one")}));
}

TEST_F(Tokenize, LinksToDirectoriesAreFollowedOnce) {
  write_text(path("elsewhere/a.txt"), "one");
  write_text(path("corpus/b.txt"), "two");
  std::filesystem::create_directory_symlink(path("elsewhere"), path("corpus/linked"));
  std::filesystem::create_directory_symlink(path("elsewhere"), path("corpus/linked_again"));
  std::filesystem::create_directory_symlink(path("corpus"), path("elsewhere/back"));
  EXPECT_EQ(run({path("corpus")}).documents, 2);
}

TEST_F(Tokenize, APipeMakesTheFileThatItsContentMakes) {
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += "{\"text\": \"line number " + std::to_string(i) + "\"}\n";
  write_text(path("a.jsonl"), lines);
  write_text(path("b.txt"), long_text(1 << 20));
  write_text(path("c.txt"), "");
  write_text(path("d.txt"), "abc");
  write_gzip(path("e.jsonl.gz"), lines);
  write_zstd(path("f.txt.zst"), long_text(1 << 20));
  for (const char* name : {"a.jsonl", "b.txt", "c.txt", "d.txt", "e.jsonl.gz", "f.txt.zst"}) {
    SCOPED_TRACE(name);
    // Before another document: one that is empty is one still.
    options_.corpus.pipe = {};
    write_text(path("z.txt"), "more");
    run({path(name), path("z.txt")});
    const std::string expected = bytes_of(path("out.h5"));
    for (const bool standard_input : {false, true}) {
      int ends[2] = {-1, -1};
      ASSERT_EQ(::pipe(ends), 0);
      std::thread writer([&] {
        const std::string content = bytes_of(path(name));
        for (size_t done = 0; done < content.size();)
          done += static_cast<size_t>(::write(ends[1], content.data() + done, content.size() - done));
        ::close(ends[1]);
      });
      const int kept = standard_input ? ::dup(STDIN_FILENO) : -1;
      if (standard_input) ::dup2(ends[0], STDIN_FILENO);
      options_.corpus.pipe = std::string(name).find(".jsonl") != std::string::npos ? "jsonl" : "txt";
      run({standard_input ? "-" : "/proc/self/fd/" + std::to_string(ends[0]), path("z.txt")});
      writer.join();
      ::close(ends[0]);
      if (standard_input) {
        ::dup2(kept, STDIN_FILENO);
        ::close(kept);
      }
      EXPECT_TRUE(bytes_of(path("out.h5")) == expected);
    }
  }
}

TEST_F(Tokenize, WhatAPipeHoldsIsSaidOnce) {
  expect_rejection(ErrorKind::kUsage, {"-: ", "--pipe jsonl"}, [&] { run({"-"}); });
  expect_rejection(ErrorKind::kUsage, {"/dev/null: ", "--pipe jsonl"}, [&] { run({"/dev/null"}); });
  options_.corpus.pipe = "txt";
  expect_rejection(ErrorKind::kUsage, {"/dev/stdin: a second time"}, [&] { run({"-", "/dev/stdin"}); });
  // By another name.
  expect_rejection(ErrorKind::kUsage, {"/dev/fd/0: a second time"}, [&] { run({"-", "/dev/fd/0"}); });
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink(path("pipe"), path("link"));
  expect_rejection(ErrorKind::kUsage, {"link: a second time"}, [&] { run({path("pipe"), path("link")}); });
  write_text(path("a.jsonl"), "{\"text\": \"one\"}\n");
  expect_rejection(ErrorKind::kUsage, {"--pipe txt: there is no pipe"}, [&] { run({path("a.jsonl")}); });
}

TEST_F(Tokenize, AFileThatSaysItIsEmptyAndIsNotIsNamed) {
  std::ifstream status("/proc/self/status");
  if (!status) GTEST_SKIP() << "there is no /proc";
  expect_rejection(ErrorKind::kData, {"/proc/self/status", "says that it is empty"},
                   [&] { run({"/proc/self/status"}); });
}

// It would be taken for text, JSON and all.
TEST_F(Tokenize, AFieldIsOfFilesThatHaveLines) {
  write_text(path("lines"), "{\"text\": \"one\"}\n");
  write_text(path("a.jsonl"), "{\"text\": \"one\"}\n");
  options_.corpus.field = "content";
  expect_rejection(ErrorKind::kUsage, {"--field content: ", ".jsonl"}, [&] { run({path("lines")}); });
  options_.corpus.field = "text";  // what is meant where nothing is said
  EXPECT_NO_THROW(run({path("lines")}));
}

// What a download that failed leaves behind.
TEST_F(Tokenize, ACompressedFileWithoutAByteIsDamaged) {
  write_text(path("whole.txt"), "one");
  for (const char* name : {"a.txt.gz", "a.jsonl.zst"}) {
    write_text(path(name), "");
    expect_rejection(ErrorKind::kData, {name, "ends in the middle"}, [&] {
      run({path("whole.txt"), path(name)});
    });
  }
}

// One piece of 50 MB took 2 GB, one of a gigabyte fifty.
TEST_F(Tokenize, WhatNoPatternCutsIsMergedUpToASize) {
  write_text(path("a.jsonl"),
             "{\"text\": \"short\"}\n{\"text\": \"" + std::string((16 << 20) + 1, 'a') + "\"}\n");
  expect_rejection(ErrorKind::kData,
                   {"a.jsonl: line 2", "16777217 bytes without a place", "at most 16777216"},
                   [&] { run({path("a.jsonl")}); });
}

// Line numbers go on from chunk to chunk.
TEST_F(Tokenize, LinesAreCountedThroughTheWholeFile) {
  std::string lines;
  for (int i = 0; i < 40000; ++i) lines += "{\"text\": \"line number " + std::to_string(i) + "\"}\n";
  write_text(path("a.jsonl"), lines + "broken\n");
  expect_rejection(ErrorKind::kData, {"a.jsonl", "line 40001"}, [&] { run({path("a.jsonl")}); });
  write_text(path("a.jsonl"), lines);
  EXPECT_EQ(run({path("a.jsonl")}).documents, 40000);
  EXPECT_EQ(documents()[39999], ids("line number 39999"));
}

}  // namespace
}  // namespace lockstep
