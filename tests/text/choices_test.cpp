// Questions with endings, from llm.c's records and from JSON lines.
#include "lockstep/text/choices.h"

#include <gtest/gtest.h>

#include <fstream>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"

namespace lockstep {
namespace {

using testing::expect_rejection;

class Choices : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.file(name); }
  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
  }
  static std::string llmc(int32_t count, const std::vector<uint16_t>& body) {
    std::vector<int32_t> header(256, 0);
    header[0] = 20240522;
    header[1] = 1;
    header[2] = count;
    return std::string(reinterpret_cast<const char*>(header.data()), 1024) +
           std::string(reinterpret_cast<const char*>(body.data()), 2 * body.size());
  }
  void reject(const std::string& name, std::initializer_list<std::string> parts) const {
    expect_rejection(ErrorKind::kData, parts, [&] { read_choices(path(name), nullptr); });
  }
  testing::ScratchDirectory directory_;
};

TEST_F(Choices, ReadsLlmcsRecords) {
  // Question 1 has three endings.
  const std::vector<uint16_t> good = {65535, 26, 0, 1, 2, 3, 10, 11, 12, 1, 20, 1, 50256,  //
                                      65535, 32, 1, 2, 3, 1, 9,  2,  1,  2, 1,  3, 3,     4, 5, 6};
  write("a.bin", llmc(2, good));
  const std::vector<ChoiceQuestion> found = read_choices(path("a.bin"), nullptr);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].context, (std::vector<int32_t>{10, 11, 12}));
  EXPECT_EQ(found[0].endings, (std::vector<std::vector<int32_t>>{{20}, {50256}}));
  EXPECT_EQ(found[0].label, 1);
  EXPECT_EQ(found[1].endings, (std::vector<std::vector<int32_t>>{{1, 2}, {3}, {4, 5, 6}}));
  EXPECT_EQ(found[1].label, 2);
}

TEST_F(Choices, ReadsJsonLinesThroughATokenizer) {
  const auto tokenizer = make_byte_tokenizer();
  write("a.jsonl", R"({"ind": 4, "ctx": "A man", "endings": ["runs", "is a"], "label": 1}

{"ctx": "B", "endings": ["x", "y", "z"], "label": "2"}
)");
  const std::vector<ChoiceQuestion> found = read_choices(path("a.jsonl"), tokenizer.get());
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].context, tokenizer->encode("A man"));
  EXPECT_EQ(found[0].endings,
            (std::vector<std::vector<int32_t>>{tokenizer->encode(" runs"), tokenizer->encode(" is a")}));
  EXPECT_EQ(found[0].label, 1);
  EXPECT_EQ(found[1].label, 2);
  expect_rejection(ErrorKind::kUsage, {"a.jsonl", "--tokenizer"},
                   [&] { read_choices(path("a.jsonl"), nullptr); });
  for (const char* line :
       {R"({"ctx": "A", "endings": ["x", "y"]})", R"({"ctx": "A", "endings": ["x", 3], "label": 0})",
        R"({"ctx": "A", "endings": "x", "label": 0})", R"({"ctx": "A", "endings": ["x", ""], "label": 0})",
        R"({"ctx": "A", "ctx": "B", "endings": ["x", "y"], "label": 0})", "[1]", "once"}) {
    write("b.jsonl", "\n" + std::string(line) + "\n");
    expect_rejection(ErrorKind::kData, {"b.jsonl: line 2"},
                     [&] { read_choices(path("b.jsonl"), tokenizer.get()); });
  }
  write("b.jsonl", R"({"ctx": "A", "endings": ["x", "y"], "label": 2})");
  expect_rejection(ErrorKind::kData, {"b.jsonl: line 1", "label 2"},
                   [&] { read_choices(path("b.jsonl"), tokenizer.get()); });
}

TEST_F(Choices, TheFieldThatIsMissingOrWrongIsNamed) {
  const auto tokenizer = make_byte_tokenizer();
  for (const auto& [line, fault] :
       {std::pair(R"({"context": "A", "endings": ["x", "y"], "label": 1})", "has no field \"ctx\""),
        {R"({"ctx": "A", "endings": ["x", 2], "label": 1})", "field \"endings\": must be an array of texts"},
        {R"({"ctx": "A", "endings": ["x", "y"], "gold": 1})", "has no field \"label\""},
        {R"({"ctx": "A", "endings": ["x", "y"], "label": "b"})", "field \"label\": must be a number"}}) {
    write("c.jsonl", line);
    expect_rejection(ErrorKind::kData, {"c.jsonl: line 1: ", fault},
                     [&] { read_choices(path("c.jsonl"), tokenizer.get()); });
  }
}

TEST_F(Choices, DamagedRecordsAreNamed) {
  const std::vector<uint16_t> good = {65535, 26, 0, 1, 2, 3, 10, 11, 12, 1, 20, 1, 50256};
  const auto changed = [&](size_t at, uint16_t value) {
    std::vector<uint16_t> body = good;
    body[at] = value;
    write("a.bin", llmc(1, body));
  };
  changed(0, 1);
  reject("a.bin", {"a.bin: question 1", "65535"});
  changed(1, 28);
  reject("a.bin", {"question 1", "has 26 bytes and says 28"});
  changed(3, 2);
  reject("a.bin", {"question 1", "label 2"});
  changed(5, 60000);
  reject("a.bin", {"question 1", "truncated"});
  write("a.bin", llmc(2, good));
  reject("a.bin", {"question 2", "truncated"});
  write("a.bin", llmc(0, good));
  reject("a.bin", {"26 bytes behind its 0 questions"});
  write("a.bin", llmc(0, {}));
  reject("a.bin", {"no questions"});
  write("a.bin", llmc(1, good));
  const auto tokenizer = make_byte_tokenizer();
  expect_rejection(ErrorKind::kUsage, {"a.bin", "GPT-2"},
                   [&] { read_choices(path("a.bin"), tokenizer.get()); });
}

}  // namespace
}  // namespace lockstep
