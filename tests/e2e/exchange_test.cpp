// Weights out of a run and into another one, by way of a directory that other programs read.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "e2e/training_run.h"

namespace lockstep::testing {
namespace {

class Exchange : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(run(kNoLauncher, {"tokenize", LOCKSTEP_ROOT "/LICENSE", "--tokenizer", "bytes", "--output",
                                file("tokens.h5")})
                  .exit_code,
              0);
    write_file(file("run.toml"),
               "[data]\nformat = \"tokens\"\ncontext = 16\ntrain = \"" + file("tokens.h5") + "\"\n" + R"(
[model]
type = "gpt"
layers = 1
width = 16
heads = 2
kv_heads = 1
positions = "rotary"
norm = "rms"
activation = "swiglu"
qkv_bias = false
output_bias = false
feedforward_bias = false
[train]
steps = 3
micro_batches = 2
micro_batch_size = 2
[optimizer]
type = "adamw"
learning_rate = 0.01
)");
  }
  std::string file(const std::string& name) const { return scratch_.file(name); }
  std::string digest_after(const std::string& weights, int workers) {
    const std::string output = file("from-" + std::to_string(++runs_));
    train(workers, {file("run.toml"), "--output", output, "--set", "train.initial_weights=" + weights});
    return digest_of(checkpoint_of(output, 3));
  }
  void refused(const std::vector<std::string>& arguments, int code, const std::string& rule) {
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_NE(outcome.err.find(rule), std::string::npos) << outcome.err;
  }
  ScratchDirectory scratch_;
  int runs_ = 0;
};

TEST_F(Exchange, ARunFromAnExportedDirectoryHasTheBitsOfOneFromTheCheckpoint) {
  train(kNoLauncher, {file("run.toml"), "--output", file("first")});
  const std::string checkpoint = checkpoint_of(file("first"), 3);
  const Outcome exported = run(kNoLauncher, {"export", checkpoint, file("out")});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  const std::string digest = digest_after(checkpoint, kNoLauncher);
  EXPECT_EQ(digest_after(file("out"), kNoLauncher), digest);
  EXPECT_EQ(digest_after(file("out"), 2), digest);

  // Logits are written in parts, whatever the micro-batches and workers.
  const auto predicted = [&](int workers, const std::string& size) {
    const std::string path = file("p" + size);
    const Outcome outcome =
        run(workers, {"predict", file("run.toml"), "--checkpoint", checkpoint, "--data", file("tokens.h5"),
                      "--output", path, "--set", "train.micro_batch_size=" + size});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return bytes_of(path);
  };
  const std::string logits = predicted(kNoLauncher, "2");
  EXPECT_GT(logits.size(), 67 * 16 * 257 * sizeof(float));
  EXPECT_EQ(predicted(2, "5"), logits);
  EXPECT_EQ(predicted(kNoLauncher, "40"), logits);

  refused({"export", checkpoint, file("out")}, 2, "is in use");
  const auto train_from = [&](const std::string& set) {
    return std::vector<std::string>{"train",      file("run.toml"), "--output",
                                    file("none"), "--set",          "train.initial_weights=" + file("out"),
                                    set};
  };
  refused(train_from("model.rotary_theta=500"), 4, "rotary_theta: 500 against 10000");
  refused(train_from("model.layers=2"), 4, "layers: 2 against 1");
  // From a checkpoint too, unless the user says so; and what is drawn may have another shape.
  int times = 0;
  const auto outcome_of = [&](const std::string& source, const std::vector<std::string>& settings) {
    std::vector<std::string> arguments = {"train",    file("run.toml"),
                                          "--output", file("other-" + std::to_string(++times)),
                                          "--set",    "train.initial_weights=" + source};
    arguments.insert(arguments.end(), settings.begin(), settings.end());
    return run(kNoLauncher, arguments);
  };
  for (const std::string& source : {checkpoint, file("out")}) {
    const auto expect = [&](int code, const std::string& said, const std::vector<std::string>& settings) {
      const Outcome outcome = outcome_of(source, settings);
      EXPECT_EQ(outcome.exit_code, code) << outcome.err;
      EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
    };
    expect(4, "is another model than the run's: window: 3 against 0; rotary_theta: 500 against 10000",
           {"model.rotary_theta=500", "model.window=3"});
    expect(0, "initial weights from",
           {"model.rotary_theta=500", "model.window=3",
            "train.initial_weights_differ=[\"window\", \"rotary_theta\"]"});
    expect(2, "'windows' is none of the options",
           {"model.window=3", "train.initial_weights_differ=[\"windows\"]"});
    expect(0, "initial weights from",
           {"data.classes=300", "model.tied_head=false",
            "train.initial_weights_without=[\"tokens.*\", \"head.*\"]"});
  }
  const std::string weights = file("out/model.safetensors");
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) - 1);
  refused(train_from("train.steps=2"), 4, "model.safetensors: truncated");
}

// GPT-2 has biases everywhere.
TEST_F(Exchange, BiasesThatAnExportHasFilledUpAreNoneOfTheRuns) {
  const std::vector<std::string> gpt2 = {"--set",
                                         "model.kv_heads=0",
                                         "model.positions=learned",
                                         "model.norm=layer",
                                         "model.norm_bias=false",
                                         "model.activation=gelu_tanh"};
  const auto with_model = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), gpt2.begin(), gpt2.end());
    return arguments;
  };
  train(kNoLauncher, with_model({file("run.toml"), "--output", file("first")}));
  const std::string checkpoint = checkpoint_of(file("first"), 3);
  ASSERT_EQ(run(kNoLauncher, {"export", checkpoint, file("out")}).exit_code, 0);
  std::vector<std::string> digests;
  for (const std::string& from : {checkpoint, file("out")}) {
    const std::string output = file("from-" + std::to_string(digests.size()));
    train(kNoLauncher,
          with_model({file("run.toml"), "--output", output, "--set", "train.initial_weights=" + from}));
    digests.push_back(digest_of(checkpoint_of(output, 3)));
  }
  EXPECT_EQ(digests[1], digests[0]);
  EXPECT_EQ(run(kNoLauncher, with_model({"eval", file("run.toml"), "--checkpoint", file("out")})).exit_code,
            0);
}

TEST_F(Exchange, TheTokenizerGoesWithItAndRowsThatItLacksDoNot) {
  const std::string tokenizer = file("tokenizer.json");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"tokenizer", "train", LOCKSTEP_ROOT "/LICENSE", "--vocabulary-size", "300",
                                 "--output", tokenizer},
        {"tokenize", LOCKSTEP_ROOT "/LICENSE", "--tokenizer", tokenizer, "--output", file("pieces.h5")}}) {
    const Outcome outcome = run(kNoLauncher, arguments);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  train(kNoLauncher, {file("run.toml"), "--output", file("run"), "--set", "data.train=" + file("pieces.h5"),
                      "data.classes=320"});
  const std::string checkpoint = checkpoint_of(file("run"), 3);
  const Outcome exported = run(kNoLauncher, {"export", checkpoint, file("out"), "--tokenizer", tokenizer});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  const nlohmann::json config = nlohmann::json::parse(bytes_of(file("out/config.json")));
  EXPECT_EQ(config["vocab_size"], 300);
  EXPECT_EQ(config["eos_token_id"], 299);
  EXPECT_EQ(bytes_of(file("out/tokenizer.json")), bytes_of(tokenizer));
  EXPECT_EQ(nlohmann::json::parse(bytes_of(file("out/tokenizer_config.json")))["eos_token"], "<|endoftext|>");
  refused({"export", checkpoint, file("new"), "--tokenizer", "bytes"}, 2, "is not the one that");
  // What the model itself says of its texts' ends counts more than what is usual for its tokenizer.
  nlohmann::json said = config;
  const nlohmann::json ids = nlohmann::json::parse(bytes_of(tokenizer))["model"]["vocab"];
  said["bos_token_id"] = ids["b"];
  said["eos_token_id"] = {ids["a"], 299};
  write_file(file("out/config.json"), said.dump());
  const Outcome again = run(kNoLauncher, {"export", file("out"), file("again"), "--tokenizer", tokenizer});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  const nlohmann::json kept = nlohmann::json::parse(bytes_of(file("again/config.json")));
  EXPECT_EQ(kept["bos_token_id"], ids["b"]);
  EXPECT_EQ(kept["eos_token_id"], said["eos_token_id"]);
  const nlohmann::json beside = nlohmann::json::parse(bytes_of(file("again/tokenizer_config.json")));
  EXPECT_EQ(beside["bos_token"], "b");
  EXPECT_EQ(beside["eos_token"], "a");
  write_file(file("out/config.json"), config.dump());
  EXPECT_FALSE(std::filesystem::exists(file("new")));

  // Whatever the weights come from, and on any number of threads, it is the same text.
  const auto generated = [&](std::vector<std::string> arguments) {
    for (const char* more : {"--prompt", "the ", "--tokens", "9", "--seed", "5"})
      arguments.emplace_back(more);
    arguments.insert(arguments.begin(), "generate");
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out.substr(0, 4), "the ");
    return outcome.out;
  };
  const std::string text = generated({"--weights", file("out"), "--threads", "1"});
  EXPECT_GT(text.size(), 8u);
  EXPECT_EQ(generated({"--weights", file("out"), "--threads", "2"}), text);
  EXPECT_EQ(generated({"--checkpoint", checkpoint, "--tokenizer", tokenizer}), text);
  EXPECT_EQ(generated({file("run.toml"), "--checkpoint", checkpoint, "--tokenizer", tokenizer}), text);
  const Outcome lines = run(kNoLauncher, {"generate", "--weights", file("out"), "--prompt", "the ",
                                          "--prompt", "a", "--tokens", "3"});
  EXPECT_EQ(std::ranges::count(lines.out, '\n'), 2) << lines.out;
  // Tokens of another tokenizer: not refused, as vocabularies may be made over, but said.
  const auto warned = [&](const std::vector<std::string>& arguments, const std::string& what) {
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
  };
  warned({"generate", "--weights", file("out"), "--tokenizer", "bytes", "--prompt", "a", "--tokens", "2"},
         "--tokenizer bytes: is another one than that of " + file("out"));
  warned(
      {"train", file("run.toml"), "--output", file("other"), "--set", "train.initial_weights=" + file("out")},
      file("out") + ": its weights are of another tokenizer");
  warned({"train", file("run.toml"), "--output", file("another"), "--set",
          "train.initial_weights=" + checkpoint, "--set", "data.classes=320"},
         checkpoint + ": its weights are of another tokenizer");
  // An evaluation is no new beginning.
  refused({"eval", file("run.toml"), "--checkpoint", file("out")}, 3, file("out") + " of tokenizer ");
  const Outcome evaluated = run(kNoLauncher, {"eval", file("run.toml"), "--checkpoint", file("out"), "--set",
                                              "data.train=" + file("pieces.h5"), "data.classes=300"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.err;
  // An adapter's tokenizer is that of its base.
  write_file(file("lora.toml"), bytes_of(file("run.toml")) + "\n[lora]\nrank = 2\n");
  train(kNoLauncher,
        {file("lora.toml"), "--output", file("tuned"), "--set", "train.initial_weights=" + file("out"),
         "data.train=" + file("pieces.h5"), "data.classes=300"});
  const Outcome adapter =
      run(kNoLauncher, {"export", checkpoint_of(file("tuned"), 3), file("adapter"), "--adapter"});
  ASSERT_EQ(adapter.exit_code, 0) << adapter.err;
  ASSERT_FALSE(std::filesystem::exists(file("adapter/tokenizer.json")));
  refused({"eval", file("run.toml"), "--checkpoint", file("adapter")}, 3, file("adapter") + " of tokenizer ");
  refused({"generate", "--weights", checkpoint, "--tokenizer", tokenizer}, 4, "(--checkpoint)");
  const std::string tuned = generated({"--weights", file("adapter")});
  EXPECT_EQ(generated({"--weights", file("adapter"), "--tokenizer", tokenizer}), tuned);
  refused({"eval", file("run.toml"), "--checkpoint", file("adapter"), "--base", file("out")}, 3,
          " of tokenizer ");
  refused({"generate", "--checkpoint", checkpoint}, 2, "name the tokenizer");
  write_file(file("typing.toml"),
             replaced(bytes_of(file("run.toml")), "heads = 2", "heads = 2\nkv_head = 1"));
  refused({"generate", file("typing.toml"), "--checkpoint", checkpoint, "--tokenizer", tokenizer}, 2,
          "model.kv_head: unknown key: did you mean model.kv_heads");
  refused({"generate", "--checkpoint", checkpoint, "--tokenizer", "bytes"}, 2, "is not the one that");
  refused({"generate", "--weights", file("out"), "--top-p", "2"}, 2, "top-p: must be in (0, 1]");
  refused({"generate", "--prompt", "x"}, 2, "name one of --checkpoint and --weights");
}

// The base is a directory; runs of adapters over it end with the same bits however they are shared and cut.
TEST_F(Exchange, AdaptersAreTrainedInLockstepAndMergedOrLeftAlone) {
  train(kNoLauncher, {file("run.toml"), "--output", file("first")});
  const auto exported = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "export");
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  };
  exported({checkpoint_of(file("first"), 3), file("base")});
  write_file(file("lora.toml"), bytes_of(file("run.toml")) +
                                    "weight_decay = 0.1\n[lora]\nrank = 2\nalpha = 6\n" +
                                    "dropout = 0.1\ntargets = [\"*\"]\n");
  const std::vector<std::string> common = {"--set", "train.initial_weights=" + file("base"), "--set",
                                           "train.micro_batches=3"};
  const auto trained = [&](int workers, const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> arguments = {file("lora.toml"), "--output", file(name)};
    arguments.insert(arguments.end(), common.begin(), common.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    train(workers, arguments);
  };
  for (const std::string compute : {"fp32", "bf16"}) {
    SCOPED_TRACE(compute);
    const std::vector<std::string> precision = {"--set", "precision.compute=" + compute};
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), precision.begin(), precision.end());
      return more;
    };
    trained(kNoLauncher, compute, with({}));
    const std::string digest = digest_of(checkpoint_of(file(compute), 3));
    trained(2, compute + "2", with({"--set", "train.recompute_every=1"}));
    EXPECT_EQ(digest_of(checkpoint_of(file(compute + "2"), 3)), digest);
    trained(3, compute + "3", with({"--set", "parallel.shard_optimizer=true", "--set", "train.steps=1"}));
    trained(2, compute + "3", with({"--resume"}));
    EXPECT_EQ(digest_of(checkpoint_of(file(compute + "3"), 3)), digest);
  }
  const std::string checkpoint = checkpoint_of(file("fp32"), 3);

  // Merged, it is the same function.
  const auto loss = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "eval");
    arguments.insert(arguments.end(), common.begin(), common.end());
    const Outcome outcome = run(kNoLauncher, arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out)["loss"].get<double>();
  };
  const double adapted = loss({file("lora.toml"), "--checkpoint", checkpoint});
  EXPECT_LT(adapted, loss({file("run.toml"), "--checkpoint", checkpoint_of(file("first"), 3)}) - 1e-3);
  exported({checkpoint, file("merged")});
  train(kNoLauncher, {file("run.toml"), "--output", file("same"), "--set",
                      "train.initial_weights=" + file("merged"), "--set", "optimizer.learning_rate=0"});
  EXPECT_NEAR(loss({file("run.toml"), "--checkpoint", checkpoint_of(file("same"), 3)}), adapted, 1e-6);
  const Outcome text = run(kNoLauncher, {"generate", "--checkpoint", checkpoint, "--prompt", "the ",
                                         "--tokens", "9", "--base", file("base")});
  EXPECT_EQ(text.out, run(kNoLauncher, {"generate", "--weights", file("merged"), "--tokenizer", "bytes",
                                        "--prompt", "the ", "--tokens", "9"})
                          .out);
  EXPECT_EQ(text.exit_code, 0) << text.err;
  const std::vector<std::string> elsewhere = {"eval",         file("lora.toml"),
                                              "--checkpoint", checkpoint,
                                              "--set",        "train.micro_batches=3",
                                              "--base",       file("base"),
                                              "--set",        "train.initial_weights=" + file("gone")};
  const Outcome there = run(2, elsewhere);
  ASSERT_EQ(there.exit_code, 0) << there.err;
  EXPECT_EQ(nlohmann::json::parse(there.out)["loss"].get<double>(), adapted);
  // The file need not say where they were, and whoever looks at the loss reads them likewise.
  const std::vector<std::string> of_base = {file("lora.toml"),       "--checkpoint", checkpoint,  "--set",
                                            "train.micro_batches=3", "--base",       file("base")};
  EXPECT_EQ(loss(of_base), adapted);
  for (const std::string command : {"curvature", "landscape"}) {
    std::vector<std::string> arguments = of_base;
    arguments.insert(arguments.begin(), command);
    if (command == "landscape") {
      arguments.insert(arguments.end(), {"--points", "2"});
    } else {
      arguments.insert(arguments.end(), {"--steps", "2", "--probes", "1", "--trace-products", "0"});
    }
    const Outcome looked = run(2, arguments);
    EXPECT_EQ(looked.exit_code, 0) << looked.err;
  }
  refused({"eval", file("run.toml"), "--checkpoint", checkpoint}, 2, "holds adapters of lora.rank = ");
  refused({"eval", file("lora.toml"), "--checkpoint", checkpoint_of(file("first"), 3), "--set",
           "train.initial_weights=" + file("base")},
          2, "is a whole model");
  exported({checkpoint, file("adapter"), "--adapter"});
  const nlohmann::json config = nlohmann::json::parse(bytes_of(file("adapter/adapter_config.json")));
  EXPECT_EQ(config["base_model_name_or_path"], file("base"));

  // Read again, it is the same function: merged by whoever reads it, and gone on with.
  EXPECT_NEAR(loss({file("run.toml"), "--checkpoint", file("adapter")}), adapted, 1e-6);
  EXPECT_NEAR(loss({file("run.toml"), "--checkpoint", file("merged")}), adapted, 1e-6);
  EXPECT_EQ(run(kNoLauncher, {"generate", "--weights", file("adapter"), "--tokenizer", "bytes", "--prompt",
                              "the ", "--tokens", "9"})
                .out,
            text.out);
  const std::string named = bytes_of(file("adapter/adapter_config.json"));
  write_file(file("adapter/adapter_config.json"), replaced(named, file("base"), "somebody/of-a-hub"));
  refused({"eval", file("run.toml"), "--checkpoint", file("adapter")}, 4, "somebody/of-a-hub");
  EXPECT_NEAR(loss({file("run.toml"), "--checkpoint", file("adapter"), "--base", file("base")}), adapted,
              1e-6);
  write_file(file("adapter/adapter_config.json"), named);
  for (const std::string& whole : {checkpoint_of(file("first"), 3), file("merged")}) {
    refused({"eval", file("run.toml"), "--checkpoint", whole, "--base", file("base")}, 2,
            "has all of its weights");
  }
  exported({file("adapter"), file("merged_again"), "--base", file("base")});
  EXPECT_EQ(bytes_of(file("merged_again/model.safetensors")), bytes_of(file("merged/model.safetensors")));
  trained(2, "on",
          {"--set", "train.initial_adapter=" + file("adapter"), "--set", "optimizer.learning_rate=0"});
  EXPECT_NEAR(loss({file("lora.toml"), "--checkpoint", checkpoint_of(file("on"), 3)}), adapted, 1e-6);
  trained(1, "on", {"--resume", "--set", "train.steps=4"});
  const auto on_from = [&](const std::string& set) {
    return std::vector<std::string>{"train",    file("lora.toml"),
                                    "--output", file("x"),
                                    "--set",    "train.initial_weights=" + file("base"),
                                    "--set",    "train.initial_adapter=" + file("adapter"),
                                    "--set",    set};
  };
  refused(on_from("lora.alpha=5"), 4, "is scaled by 3, lora.alpha / lora.rank is 2.5");
  refused(on_from("lora.targets=[\"*.attention.*\"]"), 4, "is not among what lora.targets names");
  refused({"eval", file("lora.toml"), "--checkpoint", file("adapter"), "--set",
           "train.initial_weights=" + file("base")},
          2, "evaluate it without [lora]");
  refused(
      {"train", file("run.toml"), "--output", file("x"), "--set", "train.initial_adapter=" + file("adapter")},
      2, "train.initial_adapter: goes with lora.rank");

  // Another base is refused by name, and so are adapters where weights are asked for.
  exported({checkpoint_of(file("same"), 3), file("other")});
  const auto train_with = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"train", file("lora.toml"), "--output", file("fp32")};
    arguments.insert(arguments.end(), common.begin(), common.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const std::string from = "train.initial_weights=";
  refused(train_with({"--resume", "--set", from + file("other"), "--set", "train.steps=4"}), 4,
          "its adapters belong to other weights than those of " + file("other"));
  refused({"generate", "--checkpoint", checkpoint, "--base", file("other")}, 4, "belong to other weights");
  refused({"eval", file("lora.toml"), "--checkpoint", checkpoint, "--base", file("other"), "--set",
           from + file("base")},
          4, "belong to other weights");
  refused(train_with({"--resume", "--set", "lora.alpha=5"}), 4, "lora.alpha = 5");
  refused(train_with({"--set", from + checkpoint}), 4, "holds adapters");
  refused(train_with({"--set", from}), 2, "lora.rank: needs weights that stay as they are");
  refused(train_with({"--set", "lora.rank=0"}), 2, "lora.alpha: goes with lora.rank");
  refused(train_with({"--set", "lora.targets=[\"x\"]"}), 2, "pattern \"x\" fits no matrix");
  refused({"export", checkpoint_of(file("first"), 3), file("none"), "--adapter"}, 2,
          "was not trained with [lora]");
}

TEST_F(Exchange, RefusesBeforeAnythingIsWritten) {
  const auto train_with = [&](const std::string& set) {
    return std::vector<std::string>{"train", file("run.toml"), "--output", file("none"), "--set", set};
  };
  refused(train_with("train.label_smoothing=0.1"), 2, "train.label_smoothing: not of model.type = \"gpt\"");
  EXPECT_FALSE(std::filesystem::exists(file("none")));
  std::vector<std::string> preset = train_with("model.preset=llama_15m");
  preset.insert(preset.end(), {"--set", "data.context=300"});
  refused(preset, 2,
          "model.context: must hold the data's windows of 300 tokens, got 256, as model.preset has it");
  refused({"tokenize", LOCKSTEP_ROOT "/LICENSE", "--tokenizer", "bytes", "--output", file("t.h5"), "--prompt",
           ""},
          2, "must name a field");
}

// `tokenize --end` names another token than the one that is usual for the tokenizer.
TEST_F(Exchange, TextsEndWithTheTokenThatEndedThoseOfTheTraining) {
  const std::string tokenizer = file("tokenizer.json");
  const Outcome made = run(kNoLauncher, {"tokenizer", "train", LOCKSTEP_ROOT "/LICENSE", "--vocabulary-size",
                                         "257", "--output", tokenizer});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  nlohmann::ordered_json vocabulary = nlohmann::ordered_json::parse(bytes_of(tokenizer));
  vocabulary["added_tokens"].push_back(vocabulary["added_tokens"][0]);
  vocabulary["added_tokens"].back()["id"] = 257;
  vocabulary["added_tokens"].back()["content"] = "<|im_end|>";
  write_file(tokenizer, vocabulary.dump());
  std::string documents;
  for (int i = 0; i < 400; ++i) documents += "{\"text\": \"abc\"}\n";
  write_file(file("short.jsonl"), documents);
  const auto tokenized = [&](const std::string& end, const std::string& to) {
    const Outcome outcome = run(kNoLauncher, {"tokenize", file("short.jsonl"), "--tokenizer", tokenizer,
                                              "--end", end, "--output", to});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  };
  tokenized("<|im_end|>", file("ended.h5"));
  tokenized("auto", file("usual.h5"));
  train(kNoLauncher, {file("run.toml"), "--output", file("run"), "--set", "data.train=" + file("ended.h5"),
                      "train.steps=300", "train.micro_batch_size=4"});
  const std::string checkpoint = checkpoint_of(file("run"), 300);
  const Outcome text = run(kNoLauncher, {"generate", "--checkpoint", checkpoint, "--tokenizer", tokenizer,
                                         "--prompt", "a", "--tokens", "12", "--temperature", "0", "--json"});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  const nlohmann::json line = nlohmann::json::parse(text.out);
  EXPECT_EQ(line["text"], "bc");
  EXPECT_EQ(line["ended"], "end");
  const Outcome exported = run(kNoLauncher, {"export", checkpoint, file("out"), "--tokenizer", tokenizer});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  EXPECT_EQ(nlohmann::json::parse(bytes_of(file("out/config.json")))["eos_token_id"], 257);
  EXPECT_EQ(nlohmann::json::parse(bytes_of(file("out/tokenizer_config.json")))["eos_token"], "<|im_end|>");
  // A run from these weights over texts that end otherwise is told of that, not of another tokenizer.
  const Outcome again =
      run(kNoLauncher, {"train", file("run.toml"), "--output", file("again"), "--set",
                        "data.train=" + file("usual.h5"), "train.initial_weights=" + checkpoint});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(again.err.find("another tokenizer"), std::string::npos) << again.err;
  EXPECT_NE(again.err.find("token 257 behind each document; the data of"), std::string::npos) << again.err;
}

TEST_F(Exchange, AVocabularyOfUnknownSizeTakesItsPattern) {
  const std::string tokenizer = LOCKSTEP_ROOT "/tests/text/files/small.tiktoken";
  const Outcome tokens = run(kNoLauncher, {"tokenize", LOCKSTEP_ROOT "/LICENSE", "--tokenizer", tokenizer,
                                           "--pattern", "gpt2", "--output", file("pieces.h5")});
  ASSERT_EQ(tokens.exit_code, 0) << tokens.err;
  train(kNoLauncher, {file("run.toml"), "--output", file("run"), "--set", "data.train=" + file("pieces.h5")});
  const std::vector<std::string> generate = {"generate",    "--checkpoint", checkpoint_of(file("run"), 3),
                                             "--tokenizer", tokenizer,      "--prompt",
                                             "the ",        "--tokens",     "3"};
  refused(generate, 2, "name its pattern");
  std::vector<std::string> named = generate;
  named.insert(named.end(), {"--pattern", "gpt2"});
  const Outcome text = run(kNoLauncher, named);
  EXPECT_EQ(text.exit_code, 0) << text.err;
}

TEST_F(Exchange, IsForGpts) {
  write_file(file("mlp.toml"), "[data]\ntrain = \"" LOCKSTEP_ROOT "/configs/data/digits.h5\"\n[model]\n" +
                                   kMlp + "[train]\nsteps = 1\n");
  train(kNoLauncher, {file("mlp.toml"), "--output", file("mlp")});
  refused({"export", checkpoint_of(file("mlp"), 1), file("out")}, 2,
          "another model than model.type = \"gpt\"");
  std::filesystem::create_directory(file("out"));
  refused(
      {"train", file("mlp.toml"), "--output", file("none"), "--set", "train.initial_weights=" + file("out")},
      2, "is for model.type = \"gpt\"");
  refused({"train", file("mlp.toml"), "--output", file("none"), "--set", "lora.rank=2", "--set",
           "train.initial_weights=" + checkpoint_of(file("mlp"), 1)},
          2, "no products that can be adapted");
}

}  // namespace
}  // namespace lockstep::testing
