// From text to a model of its tokens.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class LanguageModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const Outcome tokens = run(kNoLauncher, {"tokenize", LOCKSTEP_ROOT "/src/README.md", "--tokenizer",
                                             "bytes", "--output", file("tokens.h5")});
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
  EXPECT_LT(losses.back(), 2.8);  // less than the frequencies of characters give
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
  EXPECT_GT(result["accuracy"], 0.15);
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
  const std::vector<std::vector<std::string>> forms = {{},
                                                       {"precision.compute=bf16", "train.recompute_every=1"},
                                                       {"model.positions=learned", "model.window=8"}};
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
    const std::string on_two = alone + "_on_two", on_three = alone + "_on_three";
    train(2, arguments(on_two, {"device.threads=2", "train.steps=5"}));
    train(3, arguments(on_two, {"parallel.shard_optimizer=true", "--resume"}));
    EXPECT_EQ(digest_of(checkpoint_of(on_two, 12)), digest) << form;
    if (form > 0) continue;
    const Outcome outcome = run(2, {"eval", file("gpt.toml"), "--checkpoint", checkpoint_of(alone, 12)});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NEAR(nlohmann::json::parse(outcome.out)["loss"], losses.back(), 0.5);
  }
}

TEST_F(LanguageModel, TheConfigurationsOfTheRepositoryRun) {
  for (const std::string name : {"characters", "gpt2_124m", "llama_15m"}) {
    train(kNoLauncher, {LOCKSTEP_ROOT "/configs/language/" + name + ".toml", "--output", file(name), "--set",
                        "data.train=" + file("tokens.h5"), "data.context=16", "train.steps=2",
                        "train.micro_batches=1", "train.micro_batch_size=2", "train.evaluate_every=0",
                        "schedule.warmup=1", "model.width=16", "model.heads=2", "model.layers=1"});
  }
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
  refused({"data.context=1000000"}, 3, "a window of 1000000 and the token behind it need 1000001");
  refused({"data.classes=100"}, 3, "must be in [0, 100)");
  refused({"data.normalize=standard"}, 2, "tokens have no mean");
  refused({"data.train=" LOCKSTEP_ROOT "/configs/data/digits.h5"}, 3, "digits.h5");
}

}  // namespace
}  // namespace lockstep::testing
