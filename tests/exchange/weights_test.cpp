// Models of Hugging Face and llm.c: what they compute, there and back again, and what is refused.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/rejection.h"
#include "device.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/core/error.h"
#include "lockstep/exchange/export_model.h"
#include "lockstep/exchange/hugging_face_config.h"
#include "lockstep/exchange/llmc_model.h"
#include "lockstep/exchange/model_difference.h"
#include "lockstep/exchange/safetensors.h"
#include "lockstep/exchange/weights_source.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::bytes_of;
using testing::expect_rejection;
using testing::ScratchDirectory;

std::string given(const std::string& name) {
  return std::string(LOCKSTEP_EXCHANGE_FILES "/") + name;
}

std::vector<double> logits_of(const WeightsSource& source, const json& tokens) {
  const auto rows = tokens.get<std::vector<std::vector<int32_t>>>();
  const int64_t length = std::ssize(rows.front());
  std::vector<int32_t> flat;
  for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  const DataShape data{{length}, DType::kI32, source.vocabulary(), 1, {length}};
  ParameterStore store;
  const auto model = make_gpt(source.options(), data, ModuleBuilder(store));
  store.allocate(DType::kF32, test_backend(), 0);
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    const ParameterEntry& entry = store.parameters()[i];
    Tensor values = store.parameter(static_cast<int>(i));
    values.assign(Tensor::from(entry.shape, source.values(entry), test_backend()));
  }
  ForwardContext context = forward_context(store, false);
  return model->forward(Tensor::from({std::ssize(rows), length}, flat, test_backend()), context)
      .to_vector<double>();
}

// The arrays of a checkpoint.
State state_of(const WeightsSource& source) {
  return parameters_of(source, "here", source.vocabulary(), source.options().context);
}

void export_to(const std::string& directory, const WeightsSource& source, ExportOptions options = {}) {
  options.directory = directory;
  export_hugging_face(state_of(source), "here", source.options(), source.vocabulary(), options);
}

void expect_same_values(const WeightsSource& a, const WeightsSource& b) {
  for (const ParameterEntry& entry : gpt_parameters(a.options(), a.vocabulary()))
    EXPECT_EQ(a.values(entry), b.values(entry)) << entry.name;
}

class Family : public ::testing::TestWithParam<const char*> {};

TEST_P(Family, ComputesWhatTransformersComputes) {
  const auto source = open_weights(given(GetParam()));
  const json golden = json::parse(bytes_of(given(GetParam()) + "/logits.json"));
  const std::vector<double> logits = logits_of(*source, golden["tokens"]);
  const auto expected = golden["logits"].get<std::vector<double>>();
  ASSERT_EQ(logits.size(), expected.size());
  for (size_t i = 0; i < logits.size(); ++i)
    EXPECT_NEAR(logits[i], expected[i], 1e-5 * (1 + std::abs(expected[i]))) << i;
  EXPECT_EQ(source->begin(), 0);
  EXPECT_EQ(source->ends().back(), 10);
}

TEST_P(Family, ComesBackFromItsExport) {
  const auto source = open_weights(given(GetParam()));
  const ScratchDirectory scratch;
  ExportOptions options;
  options.shard_bytes = 1000;
  export_to(scratch.file("out"), *source, options);
  const auto again = open_weights(scratch.file("out"));
  EXPECT_NO_THROW(require_none(model_differences(source->options(), again->options()), "it", "it was"));
  EXPECT_EQ(again->options().context, source->options().context);
  EXPECT_EQ(again->options().attention_dropout, source->options().attention_dropout);
  EXPECT_EQ(again->options().residual_dropout, source->options().residual_dropout);
  EXPECT_EQ(again->options().embedding_dropout, source->options().embedding_dropout);
  EXPECT_EQ(again->vocabulary(), source->vocabulary());
  expect_same_values(*source, *again);
}

INSTANTIATE_TEST_SUITE_P(Weights, Family,
                         ::testing::Values("gpt2", "gpt2_older", "llama", "llama_older", "mistral", "qwen2",
                                           "qwen3", "gpt2_peft", "llama_peft", "qwen2_peft"),
                         [](const auto& family) { return std::string(family.param); });

// Biases that a model does without are zeros where its family has them.
TEST(Export, FillsUpTheBiasesThatTheFamilyHas) {
  GptOptions options;
  options.layers = 1;
  options.width = options.heads = 4;
  options.norm_bias = options.qkv_bias = options.output_bias = options.feedforward_bias = false;
  options = resolved(options, 3);
  State state;
  for (const ParameterEntry& entry : gpt_parameters(options, 5)) {
    const std::vector<float> values(static_cast<size_t>(entry.shape.elements()), 0.5f);
    StateArray array{"/parameters/" + entry.name, DType::kF32, entry.shape, {}};
    array.bytes.resize(values.size() * sizeof(float));
    std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
    state.arrays.push_back(array);
  }
  const ScratchDirectory scratch;
  export_hugging_face(state, "here", options, 5,
                      {.directory = scratch.file("out"), .dtype = DType::kBF16, .tokenizer = {}});
  const auto source = open_weights(scratch.file("out"));
  for (const ParameterEntry& entry : gpt_parameters(source->options(), 5)) {
    const bool bias = entry.name.ends_with("bias") || entry.name.ends_with("beta");
    EXPECT_EQ(source->values(entry).front(), bias ? 0.0f : 0.5f) << entry.name;
  }

  // A model without them is still the same.
  source->leave_out_zero_biases(options);
  EXPECT_NO_THROW(require_none(model_differences(options, source->options()), "it", "it was"));

  // Nothing is left of one that goes wrong, and nothing is replaced.
  const auto refused = [&](ErrorKind kind, std::initializer_list<std::string> says, const State& weights,
                           const std::string& to) {
    expect_rejection(kind, says, [&] {
      export_hugging_face(weights, "here", options, 5, {.directory = scratch.file(to), .tokenizer = {}});
    });
  };
  refused(ErrorKind::kUsage, {"out", "is in use"}, state, "out");
  refused(ErrorKind::kCheckpoint, {"cannot be written"}, state, "no/where");
  State other = state;
  other.arrays.back().path = "/parameters/other";
  refused(ErrorKind::kCheckpoint, {"here", "norm.gamma", "is missing"}, other, "new");
  other = state;
  other.arrays.push_back(state.arrays.back());
  other.arrays.back().path = "/parameters/more";
  refused(ErrorKind::kCheckpoint, {"here", "more", "is no parameter"}, other, "new");
  other = state;
  other.arrays.back().shape = Shape{3};
  refused(ErrorKind::kCheckpoint, {"norm.gamma", "(3)", "(4)"}, other, "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 1);
}

TEST(Weights, BiasesThatAreNotZeroAreNotLeftOut) {
  const auto source = open_weights(given("gpt2"));
  GptOptions without = source->options();
  without.norm_bias = without.qkv_bias = without.output_bias = without.feedforward_bias = false;
  source->leave_out_zero_biases(without);
  EXPECT_EQ(model_differences(without, source->options()).size(), 4u);
}

TEST(Export, NamesTheOptionThatNoFamilyHas) {
  const auto refused = [](const char* option, const auto& change, const char* preset = "gpt2_124m") {
    GptOptions options = gpt_preset(preset);
    change(options);
    expect_rejection(ErrorKind::kUsage, {std::string("model.") + option},
                     [&] { hugging_face_model(resolved(options, 8), 5); });
  };
  refused("soft_cap", [](GptOptions& o) { o.soft_cap = 30.0; });
  refused("window", [](GptOptions& o) { o.window = 4; });
  refused("kv_heads", [](GptOptions& o) { o.kv_heads = 6; });
  refused("norm", [](GptOptions& o) { o.norm = GptNorm::kRms; });
  refused("head_size", [](GptOptions& o) { o.head_size = 32; });
  refused("qk_norm", [](GptOptions& o) { o.qk_norm = true; });
  refused("activation", [](GptOptions& o) { o.activation = GptActivation::kSwiGlu; });
  refused(
      "norm", [](GptOptions& o) { o.norm = GptNorm::kLayer; }, "llama_15m");
  refused(
      "activation", [](GptOptions& o) { o.activation = GptActivation::kReluSquared; }, "llama_15m");
  refused(
      "window", [](GptOptions& o) { o.window = 4, o.output_bias = true; }, "llama_15m");
  refused(
      "feedforward_bias", [](GptOptions& o) { o.qk_norm = o.feedforward_bias = true; }, "llama_15m");
  EXPECT_EQ(hugging_face_model(resolved(gpt_preset("llama3_1b"), 8), 5).family, ModelFamily::kLlama);
}

TEST(HuggingFaceConfig, ThatMeansSomethingElseIsRefusedByItsKey) {
  const auto changed = [](const std::string& name, const json& patch) {
    json config = json::parse(bytes_of(given(name) + "/config.json"));
    for (const auto& [key, value] : patch.items()) {
      if (value == "-") {
        config.erase(key);
      } else {
        config[key] = value;
      }
    }
    return config.dump();
  };
  const struct {
    const char* name;
    json patch;
    std::vector<std::string> says;
  } cases[] = {
      {"llama", {{"model_type", "mamba"}}, {"model_type", "mamba"}},
      {"llama", {{"model_type", "-"}}, {"model_type", "is missing"}},
      {"llama", {{"hidden_size", "-"}}, {"hidden_size", "is missing"}},
      {"llama", {{"hidden_size", "8"}}, {"hidden_size", "whole number"}},
      {"llama", {{"hidden_size", -8}}, {"hidden_size", "-8"}},
      {"llama", {{"hidden_size", 8.0}}, {"hidden_size", "8.0"}},
      {"llama", {{"vocab_size", 0}}, {"vocab_size", "0"}},
      {"llama", {{"num_hidden_layers", 4294967296}}, {"num_hidden_layers", "4294967296"}},
      {"llama", {{"num_key_value_heads", 3}}, {"kv_heads", "3"}},
      {"llama", {{"hidden_act", "gelu"}}, {"hidden_act", "gelu"}},
      {"llama", {{"residual_multiplier", 2.0}}, {"residual_multiplier", "not known"}},
      {"llama", {{"quantization_config", json::object()}}, {"quantization_config", "not known"}},
      {"llama", {{"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}}}, {"rope_type", "yarn"}},
      {"llama",
       {{"rope_parameters", {{"rope_type", "linear"}, {"rope_theta", 1e4}}}},
       {"rope_parameters.factor", "is missing"}},
      {"llama",
       {{"rope_parameters", {{"rope_type", "default"}, {"beta_fast", 1}}}},
       {"beta_fast", "not known"}},
      {"llama", {{"rope_parameters", 7}}, {"rope_parameters", "must be an object"}},
      {"llama",
       {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}}},
       {"rope_scaling", "must mean the same as rope_parameters"}},
      {"llama",
       {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 5e5}}},
        {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}}},
       {"rope_scaling", "with rope_theta 10000"}},
      {"llama", {{"partial_rotary_factor", 0.5}}, {"partial_rotary_factor", "not known"}},
      {"llama", {{"attention_bias", 1}}, {"attention_bias", "true or false"}},
      {"llama", {{"eos_token_id", "end"}}, {"eos_token_id", "end"}},
      {"llama_older", {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}, {"dynamic"}},
      {"mistral", {{"attention_bias", true}}, {"attention_bias", "not known"}},
      {"qwen3", {{"layer_types", {"full_attention", "sliding_attention"}}}, {"sliding_window", "1 of 2"}},
      {"qwen3", {{"layer_types", "-"}, {"max_window_layers", 1}}, {"sliding_window", "1 of 2"}},
      {"qwen3",
       {{"layer_types", {"linear_attention", "full_attention"}}},
       {"layer_types", "linear_attention"}},
      {"qwen3", {{"sliding_window", nullptr}}, {"sliding_window", "is missing"}},
      {"gpt2", {{"scale_attn_weights", false}}, {"scale_attn_weights", "only true"}},
      {"gpt2", {{"scale_attn_by_inverse_layer_idx", true}}, {"scale_attn_by_inverse_layer_idx"}},
      {"gpt2", {{"activation_function", "silu"}}, {"activation_function", "silu"}},
      {"gpt2", {{"n_positions", "-"}}, {"n_positions", "is missing"}},
      {"gpt2", {{"n_head", 3}}, {"heads", "3"}},
      {"gpt2", {{"attn_pdrop", 1.0}}, {"attn_pdrop", "[0, 1)"}},
      {"llama", {{"attention_dropout", -0.1}}, {"attention_dropout", "-0.1"}},
  };
  for (const auto& wrong : cases) {
    SCOPED_TRACE(wrong.patch.dump());
    expect_rejection(ErrorKind::kCheckpoint, {"config.json", wrong.says.front(), wrong.says.back()},
                     [&] { read_hugging_face_config("config.json", changed(wrong.name, wrong.patch)); });
  }
  const auto options = [&](const std::string& name, const json& patch) {
    return read_hugging_face_config("config.json", changed(name, patch)).options;
  };
  EXPECT_EQ(options("llama", {{"_name_or_path", "x"}, {"pretraining_tp", 2}}).layers, 2);
  EXPECT_EQ(options("gpt2", {{"n_inner", nullptr}}).feedforward, 32);
  EXPECT_EQ(options("gpt2", {{"n_positions", "-"}, {"n_ctx", 8}}).context, 8);
  EXPECT_EQ(options("qwen3", {{"use_sliding_window", false}, {"layer_types", "-"}}).window, 0);
  EXPECT_EQ(options("mistral", {{"sliding_window", nullptr}}).window, 0);
  EXPECT_EQ(options("mistral", {{"sliding_window", "-"}}).window, 4096);
  EXPECT_EQ(options("llama", {{"rope_parameters", "-"}}).rotary.theta, 10000.0);
  const json twice = {{"rope_type", "linear"}, {"factor", 2.0}};
  EXPECT_EQ(options("llama",
                    {{"rope_theta", 50.0},
                     {"rope_scaling", twice},
                     {"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 50.0}}}})
                .rotary.factor,
            2.0);
  EXPECT_EQ(options("llama", {{"rope_scaling", json::object()}}).rotary.theta, 50.0);
  const GptOptions dropped = options("gpt2", {{"attn_pdrop", 0.2}, {"resid_pdrop", 0}, {"embd_pdrop", "-"}});
  EXPECT_EQ(dropped.attention_dropout, 0.2);
  EXPECT_EQ(dropped.residual_dropout, 0.0);
  EXPECT_EQ(dropped.embedding_dropout, 0.1);  // of transformers
  EXPECT_EQ(options("llama", {{"attention_dropout", 0.3}}).attention_dropout, 0.3);
  EXPECT_EQ(options("llama", {{"attention_dropout", "-"}}).attention_dropout, 0.0);
  // The newer of two keys, which files for both versions have.
  EXPECT_EQ(options("llama", {{"rope_theta", 3.0}}).rotary.theta, 50.0);
  EXPECT_TRUE(read_hugging_face_config("c", changed("llama", {{"eos_token_id", nullptr}})).ends.empty());
}

class ChangedDirectory : public ::testing::Test {
 protected:
  ChangedDirectory() { fs::copy(given("qwen2"), path_); }
  // With other tensors: `change` may drop, rename and reshape them.
  template <class Change>
  void rewrite(const Change& change) {
    const std::string path = path_ + "/model.safetensors";
    std::vector<SafetensorsTensor> tensors;
    {
      const SafetensorsFile file(path);
      for (const SafetensorsEntry& entry : file.entries()) {
        tensors.push_back({entry.name, entry.shape, [values = file.read(entry)] { return values; }});
      }
    }
    change(tensors);
    write_safetensors(path, tensors, DType::kF32);
  }
  void refused(std::initializer_list<std::string> says) {
    expect_rejection(ErrorKind::kCheckpoint, says, [&] { open_weights(path_); });
  }
  ScratchDirectory scratch_;
  std::string path_ = scratch_.file("model");
};

TEST_F(ChangedDirectory, NamesEveryTensorThatDoesNotFit) {
  rewrite([](auto& tensors) {
    for (SafetensorsTensor& tensor : tensors) {
      if (tensor.name == "model.norm.weight") tensor.shape = Shape{2, 4};
      if (tensor.name == "model.layers.1.mlp.up_proj.weight")
        tensor.name = "model.layers.2.mlp.up_proj.weight";
    }
  });
  refused({path_, "model.norm.weight is (2,4), config.json says (8)",
           "model.layers.1.mlp.up_proj.weight is missing",
           "model.layers.2.mlp.up_proj.weight is of no such model"});
}

TEST_F(ChangedDirectory, NeedsAHeadOfItsOwnWhereItIsNotTied) {
  rewrite([](auto& tensors) {
    tensors.push_back({"lm_head.weight", {11, 8}, [] { return std::vector<float>(88); }});
  });
  refused({"lm_head.weight", "ties"});
  json config = json::parse(bytes_of(path_ + "/config.json"));
  config["tie_word_embeddings"] = false;
  std::ofstream(path_ + "/config.json") << config;
  EXPECT_NO_THROW(open_weights(path_));
  rewrite([](auto& tensors) {
    std::erase_if(tensors, [](const auto& tensor) { return tensor.name == "lm_head.weight"; });
  });
  refused({"lm_head.weight is missing"});
}

TEST_F(ChangedDirectory, NamesTheFileThatIsMissing) {
  fs::rename(path_ + "/model.safetensors", path_ + "/pytorch_model.bin");
  refused({"pytorch_model.bin", "convert"});
  fs::remove(path_ + "/config.json");
  refused({"config.json", "no such file"});
}

TEST_F(ChangedDirectory, EndsTextsWhereItsGenerationConfigSays) {
  const auto ends = [&](const json& in_config, const char* generation) {
    json config = json::parse(bytes_of(path_ + "/config.json"));
    config["eos_token_id"] = in_config;
    std::ofstream(path_ + "/config.json") << config;
    std::ofstream(path_ + "/generation_config.json") << generation;
    return open_weights(path_)->ends();
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(ends(4, R"({"eos_token_id": [3, 4, 5], "temperature": 0.6})"), (Ids{4, 3, 5}));
  EXPECT_EQ(ends(4, R"({"eos_token_id": 3})"), Ids{3});
  EXPECT_EQ(ends(nullptr, R"({"eos_token_id": [3, 99, -1]})"), Ids{3});  // of a vocabulary of 11
  EXPECT_EQ(ends(4, R"({"eos_token_id": null})"), Ids{4});
  EXPECT_EQ(ends(4, "{}"), Ids{4});
  // Weights are what most come for: what cannot be read is a line, and the ends are those of config.json.
  for (const char* unreadable : {R"({"eos_token_id": "end"})", "", "[]", R"({"temperature": Infinity})"})
    EXPECT_EQ(ends(4, unreadable), Ids{4}) << unreadable;
}

TEST(Parameters, AreThoseOfTheFirstTokensAndPositions) {
  const auto source = open_weights(given("gpt2"));
  const State state = parameters_of(*source, "x", 7, 3);
  const State whole = state_of(*source);
  for (size_t i = 0; i < state.arrays.size(); ++i) {
    const StateArray &some = state.arrays[i], &all = whole.arrays[i];
    const bool tokens = some.path == "/parameters/tokens.weight" || some.path == "/parameters/head.weight";
    const bool positions = some.path == "/parameters/positions.weight";
    EXPECT_EQ(some.shape[0], tokens ? 7 : positions ? 3 : all.shape[0]) << some.path;
    EXPECT_TRUE(std::equal(some.bytes.begin(), some.bytes.end(), all.bytes.begin())) << some.path;
  }
  expect_rejection(ErrorKind::kCheckpoint, {"x", "11 tokens", "12"},
                   [&] { parameters_of(*source, "x", 12, 3); });
  expect_rejection(ErrorKind::kCheckpoint, {"x", "8 positions", "9"},
                   [&] { parameters_of(*source, "x", 11, 9); });
}

// llm.c's order of parameters, products (out, in), rows of tokens up to a multiple of 4.
std::string llmc_file(const WeightsSource& source, int32_t version, int32_t rows) {
  const GptOptions& o = source.options();
  std::vector<int32_t> header(256);
  const int32_t start[] = {kLlmcModelMagic,
                           version,
                           static_cast<int32_t>(o.context),
                           static_cast<int32_t>(source.vocabulary()),
                           static_cast<int32_t>(o.layers),
                           static_cast<int32_t>(o.heads),
                           static_cast<int32_t>(o.width),
                           rows};
  std::copy(std::begin(start), std::end(start), header.begin());
  std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
  const auto entries = gpt_parameters(o, source.vocabulary());
  const auto put = [&](const std::string& name) {
    const auto entry = std::ranges::find(entries, name, &ParameterEntry::name);
    std::vector<float> values = source.values(*entry);
    if (name.starts_with("blocks.") && entry->shape.rank() == 2) {
      const std::vector<float> ours = values;
      const int64_t inputs = entry->shape[0], outputs = entry->shape[1];
      for (int64_t i = 0; i < inputs; ++i) {
        for (int64_t j = 0; j < outputs; ++j)
          values[static_cast<size_t>(j * inputs + i)] = ours[static_cast<size_t>(i * outputs + j)];
      }
    }
    if (name == "tokens.weight") values.resize(static_cast<size_t>(rows * o.width), 7.0f);
    for (const float value : values) {
      const BFloat16 half(value);
      bytes.append(
          version == 3 ? reinterpret_cast<const char*>(&value) : reinterpret_cast<const char*>(&half),
          version == 3 ? 4 : 2);
    }
  };
  put("tokens.weight");
  put("positions.weight");
  for (const char* name :
       {"attention_norm.gamma", "attention_norm.beta", "attention.qkv.weight", "attention.qkv.bias",
        "attention.output.weight", "attention.output.bias", "feedforward_norm.gamma", "feedforward_norm.beta",
        "expand.weight", "expand.bias", "contract.weight", "contract.bias"}) {
    for (int64_t i = 0; i < o.layers; ++i) put("blocks." + std::to_string(i) + "." + name);
  }
  put("norm.gamma");
  put("norm.beta");
  return bytes;
}

TEST(LlmcModel, HasTheParametersOfTheSameModelOfHuggingFace) {
  const auto source = open_weights(given("gpt2_older"));
  const ScratchDirectory scratch;
  const std::string path = scratch.file("model.bin");
  const std::string whole = llmc_file(*source, 3, 12);
  std::ofstream(path, std::ios::binary) << whole;
  EXPECT_TRUE(holds_weights(path));
  const auto read = open_weights(path);
  EXPECT_NO_THROW(require_none(model_differences(source->options(), read->options()), "it", "it was"));
  EXPECT_EQ(read->vocabulary(), 11);
  expect_same_values(*source, *read);
  std::ofstream(scratch.file("bf16.bin"), std::ios::binary) << llmc_file(*source, 5, 12);
  const auto halves = open_weights(scratch.file("bf16.bin"));
  for (const ParameterEntry& entry : gpt_parameters(read->options(), 11)) {
    const std::vector<float> expected = read->values(entry), found = halves->values(entry);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(found[i], static_cast<float>(BFloat16(expected[i])));
  }
  const auto refused = [&](const std::string& bytes, std::initializer_list<std::string> says) {
    const std::string damaged = scratch.file("damaged.bin");
    std::ofstream(damaged, std::ios::binary) << bytes;
    expect_rejection(ErrorKind::kCheckpoint, says, [&] { open_weights(damaged); });
  };
  const auto with = [&whole](size_t place, int32_t value) {
    std::string bytes = whole;
    std::memcpy(bytes.data() + 4 * place, &value, 4);
    return bytes;
  };
  refused(whole.substr(0, whole.size() - 1), {"damaged.bin", "truncated"});
  refused(whole + "x", {"damaged.bin", "too long"});
  refused(whole.substr(0, 1000), {"damaged.bin", "1024"});
  refused(with(0, 7), {"magic 7"});
  refused(with(1, 4), {"version 4"});
  refused(with(3, 13), {"12 rows for 13 tokens"});
  refused(with(3, -1), {"-1 tokens"});
  refused(with(4, -2), {"layers"});
  refused(with(6, 1 << 20), {"head_size"});
  EXPECT_FALSE(holds_weights(given("gpt2/config.json")));
  // Nobody waits at a pipe into which nobody writes.
  ASSERT_EQ(::mkfifo(scratch.file("pipe").c_str(), 0600), 0);
  EXPECT_FALSE(holds_weights(scratch.file("pipe")));
}

}  // namespace
}  // namespace lockstep
