// Learning vocabularies: those of Hugging Face's trainer, ties included.
#include "lockstep/text/bpe_trainer.h"

#include <gtest/gtest.h>

#include "data/rejection.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/text/tokenizer.h"
#include "text/files.h"

namespace lockstep {
namespace {

using nlohmann::json;
using testing::expect_rejection;
using testing::kFiles;
using testing::read_json;

class BpeTrainer : public ::testing::Test {
 protected:
  BpeTrainer() {
    std::ofstream file(corpus_);
    const json expected = read_json(kFiles + "expected.json");
    for (const json& text : expected["training"]) file << json{{"text", text}}.dump() << "\n";
  }
  json trained(const std::string& pattern, int64_t size) {
    training_.corpus.inputs = {corpus_};
    training_.vocabulary_size = size;
    training_.pattern = pattern;
    train_tokenizer(training_, output_);
    return read_json(output_);
  }
  testing::ScratchDirectory directory_;
  std::string corpus_ = directory_.file("corpus.jsonl"), output_ = directory_.file("tokenizer.json");
  TokenizerTraining training_;
};

TEST_F(BpeTrainer, LearnsWhatHuggingFaceLearns) {
  const json gpt4 = read_json(kFiles + "llama3.json");
  for (const int threads : {1, 3}) {
    set_threads(threads);
    const json made = trained("gpt4", 481);
    EXPECT_EQ(made["model"]["merges"], gpt4["model"]["merges"]);
    EXPECT_EQ(made["model"]["vocab"], gpt4["model"]["vocab"]);
  }
  set_threads(1);
  // There <|endoftext|> has the first id, and one token more was learned here.
  const json gpt2 = read_json(kFiles + "gpt2.json");
  const json made = trained("gpt2", 480);
  EXPECT_EQ(made["model"]["merges"], gpt2["model"]["merges"]);
  for (const auto& [token, id] : made["model"]["vocab"].items())
    EXPECT_EQ(gpt2["model"]["vocab"][token], id.get<int>() + 1) << token;
}

TEST_F(BpeTrainer, WhatItWritesIsReadAgain) {
  trained("gpt4", 481);
  const auto tokenizer = open_tokenizer({.path = output_});
  EXPECT_EQ(tokenizer->vocabulary_size(), 481);
  EXPECT_EQ(tokenizer->end_of_text(), 480);
  const std::string text = "the quick brown fox isn't 12345 \xF0\x9F\x98\x80\n";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

TEST_F(BpeTrainer, EndsWhereThereAreNoMorePairs) {
  std::ofstream(corpus_) << "{\"text\": \"abab\"}\n";
  const json made = trained("gpt2", 1000);
  // "ab" of two, then "abab"
  EXPECT_EQ(made["model"]["merges"], json::parse(R"([["a","b"],["ab","ab"]])"));
  EXPECT_EQ(made["added_tokens"][0]["id"], 258);
}

TEST(LearnVocabulary, OfEquallyFrequentPairsTheSmallerIdsComeFirst) {
  const LearnedVocabulary learned = learn_vocabulary({{"xy", 2}, {"ab", 2}, {"aa", 1}, {"ac", 1}}, 260);
  std::vector<std::string> made(learned.tokens.begin() + 256, learned.tokens.end());
  EXPECT_EQ(made, (std::vector<std::string>{"ab", "xy", "aa", "ac"}));
}

TEST_F(BpeTrainer, RefusesWhatCannotBe) {
  expect_rejection(ErrorKind::kUsage, {"256", "257"}, [&] { trained("gpt2", 256); });
  expect_rejection(ErrorKind::kUsage, {"\"gpt3\""}, [&] { trained("gpt3", 300); });
  output_ = corpus_;
  expect_rejection(ErrorKind::kUsage, {corpus_, "not replaced"}, [&] { trained("gpt2", 300); });
  output_ = directory_.file("no/tokenizer.json");
  expect_rejection(ErrorKind::kUsage, {"there is no directory"}, [&] { trained("gpt2", 300); });
  output_ = directory_.file("tokenizer.json");
  std::ofstream(corpus_, std::ios::trunc) << "\n";
  expect_rejection(ErrorKind::kData, {"there is no text"}, [&] { trained("gpt2", 300); });
}

}  // namespace
}  // namespace lockstep
