// From text to a model of its tokens.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class LanguageModel : public ::testing::Test {
 protected:
  // A text that nobody edits: what a model of it learns stays the same.
  static std::string text() {
    static constexpr const char* kWords[] = {
        "the ",      "state ", "of ",    "a ",     "run ",  "and ",    "its ",      "parameters ",
        "worker ",   "adds ",  "what ",  "others", ", ",    "send, ",  "in ",       "order.\n",
        "gradient ", "is ",    "one ",   "sum ",   "over ", "all ",    "samples. ", "steps ",
        "follow ",   "each ",  "other ", "until ", "loss ", "falls; ", "then ",     "they end.\n"};
    std::string words;
    for (uint32_t draw = 1; words.size() < 24'000; draw = draw * 1'664'525 + 1'013'904'223)
      words += kWords[draw >> 27];
    return words;
  }
  void SetUp() override {
    write_file(file("text.txt"), text());
    const Outcome tokens = run(
        kNoLauncher, {"tokenize", file("text.txt"), "--tokenizer", "bytes", "--output", file("tokens.h5")});
    ASSERT_EQ(tokens.exit_code, 0) << tokens.err;
    write_file(file("run.toml"),
               "[run]\nseed = 3\n[data]\nformat = \"tokens\"\ncontext = 32\nvalidation_fraction = 0.1\n"
               "train = \"" +
                   file("tokens.h5") + "\"\n" + R"(
[model]
type = "sequential"
[[model.layers]]
type = "embedding"
rows = 257
width = 48
[[model.layers]]
type = "positions"
[[model.layers]]
type = "transformer_block"
heads = 4
causal = true
dropout = 0.1
[[model.layers]]
type = "layer_norm"
[[model.layers]]
type = "linear"
units = 257
[train]
steps = 60
micro_batches = 4
micro_batch_size = 8
log_every = 1
evaluate_every = 60
[optimizer]
type = "adamw"
learning_rate = 0.01
)");
  }
  std::string file(const std::string& name) const { return scratch_.file(name); }

  ScratchDirectory scratch_;
};

TEST_F(LanguageModel, LearnsAndIsTheSameBitsOnAnyNumberOfWorkersThroughAnInterruption) {
  train(kNoLauncher, {file("run.toml"), "--output", file("alone")});
  const std::vector<double> losses = losses_of(file("alone"));
  ASSERT_EQ(losses.size(), 60u);
  EXPECT_GT(losses.front(), std::log(257.0) - 0.1);
  EXPECT_LT(losses.back(), 2.5);  // less than the frequencies of characters give
  const std::string digest = digest_of(checkpoint_of(file("alone"), 60));
  for (const int workers : {2, 3}) {
    const std::string output = file("on_" + std::to_string(workers));
    train(workers, {file("run.toml"), "--output", output, "--set", "train.steps=25"});
    train(5 - workers, {file("run.toml"), "--output", output, "--resume"});
    EXPECT_EQ(digest_of(checkpoint_of(output, 60)), digest) << workers;
  }
  const Outcome outcome =
      run(2, {"eval", file("run.toml"), "--checkpoint", checkpoint_of(file("alone"), 60)});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const nlohmann::json result = nlohmann::json::parse(outcome.out);
  EXPECT_LT(result["loss"], 3.0);
  EXPECT_DOUBLE_EQ(result["perplexity"].get<double>(), std::exp(result["loss"].get<double>()));
  // A token a byte, but for the one behind the text.
  const double bytes = static_cast<double>(text().size());
  EXPECT_NEAR(result["bits_per_byte"].get<double>(),
              result["loss"].get<double>() / std::log(2.0) * (bytes + 1) / bytes, 1e-12);
  EXPECT_GT(result["accuracy"], 0.15);

  // Endings in words of the text against letters that are rare in it; a long context loses its beginning.
  std::string questions;
  for (int i = 0; i < 10; ++i) {
    const int label = i % 3;
    std::vector<std::string> endings = {"zqxj vqzx", "QZXJVQ", "}{#~^"};
    endings[static_cast<size_t>(label)] = "the state";
    questions +=
        nlohmann::json{
            {"ctx", i == 4 ? std::string(100, 'e') : "of a run and"}, {"endings", endings}, {"label", label}}
            .dump() +
        "\n";
  }
  write_file(file("questions.jsonl"), questions);
  std::string line;
  for (const int workers : {kNoLauncher, 2, 3}) {
    const Outcome chosen =
        run(workers, {"eval", file("run.toml"), "--checkpoint", checkpoint_of(file("alone"), 60), "--choices",
                      file("questions.jsonl"), "--tokenizer", "bytes"});
    ASSERT_EQ(chosen.exit_code, 0) << chosen.err;
    if (line.empty()) line = chosen.out;
    EXPECT_EQ(chosen.out, line) << workers;
  }
  const nlohmann::json choices = nlohmann::json::parse(line);
  EXPECT_EQ(choices["questions"], 10);
  EXPECT_EQ(choices["accuracy_normalized"], 1.0);
  EXPECT_GE(choices["accuracy"], 0.6);  // of the sum: the longest ending is at a disadvantage
  EXPECT_EQ(choices["shortened"], 1);
  write_file(file("long.jsonl"),
             nlohmann::json{{"ctx", "a"}, {"endings", {std::string(40, 'x'), "y"}}, {"label", 0}}.dump());
  const Outcome refused = run(2, {"eval", file("run.toml"), "--checkpoint", checkpoint_of(file("alone"), 60),
                                  "--choices", file("long.jsonl"), "--tokenizer", "bytes"});
  EXPECT_EQ(refused.exit_code, 3) << refused.err;
  EXPECT_NE(refused.err.find("an ending of 41 tokens"), std::string::npos) << refused.err;
}

// Measures of text, the same on any number of workers; MFU where the peak is known alone.
TEST_F(LanguageModel, TokensAreCountedAndLossesToldByPosition) {
  for (const int workers : {kNoLauncher, 3}) {
    train(workers,
          {file("run.toml"), "--output", file("measured_" + std::to_string(workers)), "--set",
           "train.steps=4", "train.micro_batches=0", "train.batch_tokens=1024", "train.peak_tflops=2",
           "schedule.type=cosine", "schedule.unit=tokens", "schedule.warmup=2048"});
  }
  EXPECT_EQ(course_of(file("measured_3")), course_of(file("measured_" + std::to_string(kNoLauncher))));
  const std::vector<nlohmann::json> lines = metrics_of(file("measured_3"));
  EXPECT_EQ(lines[2]["tokens"], 3 * 1024);
  EXPECT_DOUBLE_EQ(lines[2]["tokens_per_second"].get<double>(),
                   32 * lines[2]["samples_per_second"].get<double>());
  EXPECT_GT(lines[2]["mfu"], 0.0);
  EXPECT_LT(lines[2]["mfu"], 1.0);
  EXPECT_DOUBLE_EQ(lines[0]["learning_rate"].get<double>(), 0.005);
  EXPECT_EQ(lines[1]["learning_rate"].get<double>(), 0.01);
  const nlohmann::json& last = lines.back();
  EXPECT_DOUBLE_EQ(last["validation_perplexity"].get<double>(),
                   std::exp(last["validation_loss"].get<double>()));
  std::string line;
  for (const int workers : {kNoLauncher, 2, 3}) {
    const Outcome outcome =
        run(workers, {"eval", file("run.toml"), "--checkpoint", checkpoint_of(file("measured_3"), 4),
                      "--by-position", "--set", "schedule.type=cosine", "schedule.unit=tokens"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    if (line.empty()) line = outcome.out;
    EXPECT_EQ(outcome.out, line) << workers;
  }
  const nlohmann::json result = nlohmann::json::parse(line);
  ASSERT_EQ(result["position_losses"].size(), 32u);
  double sum = 0.0;
  for (const nlohmann::json& loss : result["position_losses"]) sum += loss.get<double>();
  EXPECT_NEAR(sum / 32, result["loss"].get<double>(), 1e-6);

  // Windows of one token have a position, too.
  train(kNoLauncher,
        {file("run.toml"), "--output", file("single"), "--set", "data.context=1", "train.steps=1"});
  const Outcome single =
      run(kNoLauncher, {"eval", file("run.toml"), "--checkpoint", checkpoint_of(file("single"), 1),
                        "--by-position", "--set", "data.context=1"});
  ASSERT_EQ(single.exit_code, 0) << single.err;
  EXPECT_EQ(nlohmann::json::parse(single.out)["position_losses"].size(), 1u);
}

// The mean over the tokens of the global batch that count, divided once: means of micro-batches, each by its
// own count, would be another number where prompts have unequal lengths.
TEST_F(LanguageModel, PromptsCountNothingHoweverTheBatchIsShared) {
  std::string pairs;
  for (int i = 0; i < 120; ++i) {
    pairs +=
        nlohmann::json{
            {"prompt", std::string(static_cast<size_t>(i * i % 67), static_cast<char>('a' + i % 26))},
            {"completion", std::string(static_cast<size_t>(1 + i * 7 % 13), static_cast<char>('A' + i % 26))}}
            .dump() +
        "\n";
  }
  write_file(file("pairs.jsonl"), pairs);
  const Outcome tokens =
      run(kNoLauncher, {"tokenize", file("pairs.jsonl"), "--prompt", "prompt", "--completion", "completion",
                        "--tokenizer", "bytes", "--output", file("pairs.h5")});
  ASSERT_EQ(tokens.exit_code, 0) << tokens.err;
  EXPECT_NE(tokens.err.find("of the tokens count"), std::string::npos) << tokens.err;
  const auto course = [&](int workers, const std::string& micro_batches, const std::string& size) {
    const std::string output = file(micro_batches + "_" + std::to_string(workers));
    train(workers, {file("run.toml"), "--output", output, "--set", "data.train=" + file("pairs.h5"),
                    "train.steps=6", "model.layers[2].dropout=0.0", "train.micro_batches=" + micro_batches,
                    "train.micro_batch_size=" + size});
    return std::pair(losses_of(output), digest_of(checkpoint_of(output, 6)));
  };
  const auto one = course(kNoLauncher, "12", "1");
  EXPECT_EQ(course(2, "12", "1"), one);
  EXPECT_EQ(course(3, "12", "1"), one);
  const auto other = course(2, "3", "4");
  ASSERT_EQ(other.first.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(other.first[i], one.first[i], 2e-5) << i;
}

TEST_F(LanguageModel, GptIsTheSameBitsOnAnyNumberOfWorkersAndThreadsInEveryForm) {
  write_file(file("gpt.toml"),
             "[run]\nseed = 3\n[data]\nformat = \"tokens\"\ncontext = 24\nvalidation_fraction = 0.1\n"
             "train = \"" +
                 file("tokens.h5") + "\"\n" + R"(
[model]
type = "gpt"
layers = 3
width = 24
heads = 4
kv_heads = 2
positions = "rotary"
norm = "rms"
activation = "swiglu"
qk_norm = true
dropout = 0.1
z_loss = 1e-4
[train]
steps = 12
micro_batches = 3
micro_batch_size = 4
log_every = 1
[optimizer]
type = "adamw"
learning_rate = 0.01
decay_biases = false
)");
  const std::vector<std::vector<std::string>> forms = {
      {},
      {"precision.compute=bf16", "train.recompute_every=1"},
      {"model.positions=learned", "model.window=8"},
      {"data.documents=mask", "data.train=" + file("lines.h5")},
      {"data.train=" + file("lines.h5")}};
  // A document a line, several in a window.
  std::istringstream text(bytes_of(LOCKSTEP_ROOT "/src/README.md"));
  std::string lines;
  for (std::string line; std::getline(text, line);)
    lines += nlohmann::json{{"text", line.substr(0, 15)}}.dump() + "\n";
  write_file(file("lines.jsonl"), lines);
  const Outcome tokens = run(
      kNoLauncher, {"tokenize", file("lines.jsonl"), "--tokenizer", "bytes", "--output", file("lines.h5")});
  ASSERT_EQ(tokens.exit_code, 0) << tokens.err;
  std::set<std::string> digests;
  for (size_t form = 0; form < forms.size(); ++form) {
    const auto arguments = [&](const std::string& output, const std::vector<std::string>& more) {
      std::vector<std::string> list = {file("gpt.toml"), "--output", output, "--set"};
      list.insert(list.end(), forms[form].begin(), forms[form].end());
      list.insert(list.end(), more.begin(), more.end());
      return list;
    };
    const std::string alone = file("gpt" + std::to_string(form));
    train(kNoLauncher, arguments(alone, {"device.threads=1"}));
    const std::vector<double> losses = losses_of(alone);
    ASSERT_EQ(losses.size(), 12u);
    EXPECT_NEAR(losses.front(), std::log(257.0), 0.1) << form;
    EXPECT_LT(losses.back(), losses.front() - 1.0) << form;
    const std::string digest = digest_of(checkpoint_of(alone, 12));
    EXPECT_TRUE(digests.insert(digest).second) << form;
    const std::string on_two = alone + "_on_two", on_three = alone + "_on_three";
    const std::string again = form == 1 ? "block" : "cheap";  // of one that has recompute_every
    train(2, arguments(on_two, {"device.threads=2", "train.steps=5", "train.recompute=" + again}));
    train(3, arguments(on_two, {"parallel.shard_optimizer=true", "--resume"}));
    EXPECT_EQ(digest_of(checkpoint_of(on_two, 12)), digest) << form;
    if (form > 0) continue;
    const Outcome outcome = run(2, {"eval", file("gpt.toml"), "--checkpoint", checkpoint_of(alone, 12)});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NEAR(nlohmann::json::parse(outcome.out)["loss"], losses.back(), 0.5);
  }
}

TEST_F(LanguageModel, TheConfigurationsOfTheRepositoryRun) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(LOCKSTEP_ROOT "/configs/language")) {
    ++count;
    train(kNoLauncher,
          {entry.path(), "--output", file(entry.path().stem()), "--set", "data.train=" + file("tokens.h5"),
           "data.context=16", "train.steps=2", "train.micro_batches=1", "train.micro_batch_size=2",
           "train.evaluate_every=0", "schedule.warmup=1", "model.width=16", "model.heads=2",
           "model.kv_heads=1", "model.layers=1", "model.feedforward=0"});
  }
  EXPECT_EQ(count, 9);
}

TEST_F(LanguageModel, CurvatureThatDoesNotKnowALossIsRefusedOnce) {
  write_file(file("gpt.toml"), "[run]\nseed = 3\n[data]\nformat = \"tokens\"\ncontext = 32\ntrain = \"" +
                                   file("tokens.h5") + R"("
[model]
type = "gpt"
layers = 1
width = 8
heads = 2
z_loss = 0.01
[train]
steps = 1
micro_batches = 2
micro_batch_size = 4
)");
  train(kNoLauncher, {file("gpt.toml"), "--output", file("out")});
  const Outcome outcome =
      run(2, {"curvature", file("gpt.toml"), "--checkpoint", checkpoint_of(file("out"), 1), "--operator",
              "gauss_newton", "--samples", "16"});
  EXPECT_EQ(outcome.exit_code, 2);
  const size_t line = outcome.err.find("error: " + checkpoint_of(file("out"), 1) + ": model.z_loss: ");
  ASSERT_NE(line, std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find('\n', line), outcome.err.size() - 1) << outcome.err;
}

TEST_F(LanguageModel, WhatTokensDoNotGoWithIsRefused) {
  const auto refused = [&](const std::vector<std::string>& set, int code, const std::string& rule) {
    std::vector<std::string> arguments = {"train", file("run.toml"), "--output", file("none"), "--set"};
    arguments.insert(arguments.end(), set.begin(), set.end());
    const Outcome outcome = run(2, arguments);
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_NE(outcome.err.find(rule), std::string::npos) << outcome.err;
  };
  refused({"data.format=auto"}, 2, "data.format = \"tokens\"");
  const std::string gpt = "model={type=\"gpt\",layers=1,width=8,heads=2,z_loss=0.001}";
  for (const auto& [optimizer, key] :
       {std::pair("{type=\"kfac\",adapt_every=5}", "optimizer.adapt_every = 5"),
        {"{type=\"natural_gradient\"}", "optimizer.type = \"natural_gradient\""},
        {"{type=\"newton_cg\",matrix=\"gauss_newton\"}", "optimizer.matrix = \"gauss_newton\""},
        {"{type=\"trust_region\",matrix=\"gauss_newton\"}", "optimizer.matrix = \"gauss_newton\""}}) {
    refused({gpt, std::string("optimizer=") + optimizer}, 2, std::string("model.z_loss: not with ") + key);
    EXPECT_FALSE(std::filesystem::exists(file("none"))) << key;
  }
  refused({"data.context=1000000"}, 3, "a window of 1000000 and the token behind it need 1000001");
  refused({"data.classes=100"}, 3, "must be in [0, 100)");
  // sequential sees all of a window: to let documents see each other is what was not asked for.
  refused({"data.documents=mask"}, 2, "data.documents = \"mask\"");
  const Outcome other =
      run(kNoLauncher, {"tokenize", LOCKSTEP_ROOT "/src/README.md", "--tokenizer", "bytes", "--begin",
                        "<|endoftext|>", "--end", "none", "--output", file("begun.h5")});
  ASSERT_EQ(other.exit_code, 0) << other.err;
  EXPECT_NE(other.err.find("--begin <|endoftext|>"), std::string::npos) << other.err;
  refused({"data.validation_fraction=0", "data.validation=" + file("begun.h5")}, 3,
          "token 256 before and nothing behind each document");
  refused({"data.normalize=standard"}, 2, "tokens have no mean");
  refused({"data.train=" LOCKSTEP_ROOT "/configs/data/digits.h5"}, 3, "digits.h5");
}

}  // namespace
}  // namespace lockstep::testing
