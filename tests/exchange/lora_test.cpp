// Adapters against PEFT: what they compute, their gradients, and the files that it reads.
#include "lockstep/nn/lora.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/rejection.h"
#include "device.h"
#include "hdf5/scratch_directory.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/core/error.h"
#include "lockstep/exchange/export_model.h"
#include "lockstep/exchange/peft_adapter.h"
#include "lockstep/exchange/safetensors.h"
#include "lockstep/exchange/weights_source.h"
#include "lockstep/ops/class_head.h"

namespace lockstep {
namespace {

using nlohmann::json;
using testing::bytes_of;
using testing::expect_rejection;
using testing::ScratchDirectory;

constexpr int64_t kBatch = 2, kLength = 5;

LoraOptions options_of(const json& golden) {
  LoraOptions options;
  options.rank = golden["rank"];
  options.alpha = golden["alpha"];
  if (golden["parameters"].contains("blocks.0.expand")) options.targets = {"*"};
  return options;
}

struct AdaptedModel {
  std::unique_ptr<WeightsSource> source;
  ParameterStore store;
  std::unique_ptr<Module> model;

  // lora: of rank 0: without adapters.
  AdaptedModel(const std::string& name, const LoraOptions& lora, DType dtype = DType::kF32)
      : source(open_weights(std::string(LOCKSTEP_EXCHANGE_FILES "/") + name)) {
    const DataShape data{{kLength}, DType::kI32, source->vocabulary(), 1, {kLength}};
    GptOptions options = source->options();
    options.attention_dropout = options.residual_dropout = options.embedding_dropout = 0.0;
    if (lora.rank == 0) {
      model = make_gpt(options, data, ModuleBuilder(store));
    } else {
      LoraPlan plan(lora);
      model = make_gpt(options, data, ModuleBuilder(store, "", &plan));
      plan.require_fit(store);
    }
    store.allocate(dtype, test_backend(), 3);
    for (size_t i = 0; i < store.frozen().size(); ++i) {
      const FrozenEntry& entry = store.frozen()[i];
      store.freeze(i,
                   Tensor::from(entry.shape, source->values({entry.name, entry.shape, 0, {}}), test_backend())
                       .converted(dtype));
    }
    for (size_t i = 0; lora.rank == 0 && i < store.parameters().size(); ++i) {
      const ParameterEntry& entry = store.parameters()[i];
      Tensor values = store.parameter(static_cast<int>(i));
      values.assign(Tensor::from(entry.shape, source->values(entry), test_backend()).converted(dtype));
    }
  }
  Tensor logits(const json& golden) const {
    ForwardContext context = forward_context(store, true);
    return model->forward(tokens(golden), context);
  }
  static Tensor tokens(const json& golden) {
    return Tensor::from({kBatch, kLength}, golden["tokens"].get<std::vector<int32_t>>(), test_backend());
  }
  // What the golden has of a parameter, under "lora_" or "gradient_".
  const json& of(const json& golden, size_t index, const std::string& group) const {
    const std::string& name = store.parameters()[index].name;
    return golden["parameters"][name.substr(0, name.rfind('.'))][group + name.back()];
  }
};

void expect_near(const Tensor& found, const json& expected, const std::string& what) {
  const double bound = found.dtype() == DType::kF64 ? 1e-10 : 1e-4;
  const std::vector<double> values = found.to_vector<double>();
  ASSERT_EQ(values.size(), expected.size()) << what;
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(values[i], expected[i].get<double>(), bound * (1.0 + std::abs(expected[i].get<double>())))
        << what << "[" << i << "]";
  }
}

class Adapters : public ::testing::TestWithParam<std::string> {};

TEST_P(Adapters, BeginAsTheBaseAndThenComputeWhatPeftComputes) {
  const std::string files = LOCKSTEP_EXCHANGE_FILES "/" + GetParam() + "_lora/";
  const json golden = json::parse(bytes_of(files + "golden.json"));
  EXPECT_EQ(AdaptedModel(GetParam(), options_of(golden)).logits(golden).to_vector<float>(),
            AdaptedModel(GetParam(), {}).logits(golden).to_vector<float>());
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    AdaptedModel adapted(GetParam(), options_of(golden), dtype);
    const auto& parameters = adapted.store.parameters();
    EXPECT_EQ(parameters.size(), 2 * golden["parameters"].size());
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto values = adapted.of(golden, i, "lora_").get<std::vector<double>>();
      Tensor parameter = adapted.store.parameter(static_cast<int>(i));
      parameter.assign(Tensor::from(parameters[i].shape, values, test_backend()).converted(dtype));
    }
    expect_near(adapted.logits(golden), golden["logits"], "logits");
    ForwardContext context = forward_context(adapted.store, true);
    const Tensor labels =
        Tensor::from({kBatch * kLength}, golden["labels"].get<std::vector<int32_t>>(), test_backend());
    const Tensor losses =
        head_losses(*adapted.model->class_head(AdaptedModel::tokens(golden), context), labels);
    expect_near(losses, golden["losses"], "losses");
    size_t count = 0;
    backward(losses, losses.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
      const auto index = static_cast<size_t>(leaf.index);
      expect_near(gradient, adapted.of(golden, index, "gradient_"), parameters[index].name);
      ++count;
    });
    EXPECT_EQ(count, parameters.size());
  }
}

TEST_P(Adapters, AreWrittenAsPeftWritesThem) {
  const std::string files = LOCKSTEP_EXCHANGE_FILES "/" + GetParam() + "_lora/";
  const json golden = json::parse(bytes_of(files + "golden.json"));
  const AdaptedModel adapted(GetParam(), options_of(golden));
  State state;
  for (size_t i = 0; i < adapted.store.parameters().size(); ++i) {
    const ParameterEntry& entry = adapted.store.parameters()[i];
    const auto values = adapted.of(golden, i, "lora_").get<std::vector<float>>();
    StateArray array{"/parameters/" + entry.name, DType::kF32, entry.shape, {}};
    array.bytes.resize(values.size() * sizeof(float));
    std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
    state.arrays.push_back(std::move(array));
  }
  const ScratchDirectory scratch;
  ExportOptions to;
  to.directory = scratch.file("out");
  export_adapter(state, "here", adapted.source->options(), adapted.source->vocabulary(),
                 {options_of(golden), "base"}, to);
  const SafetensorsFile ours(scratch.file("out/adapter_model.safetensors")),
      theirs(files + "adapter_model.safetensors");
  ASSERT_EQ(ours.entries().size(), theirs.entries().size());
  for (const SafetensorsEntry& entry : theirs.entries()) {
    const SafetensorsEntry* const found = ours.find(entry.name);
    ASSERT_NE(found, nullptr) << entry.name;
    EXPECT_EQ(found->shape, entry.shape) << entry.name;
    EXPECT_EQ(ours.read(*found), theirs.read(entry)) << entry.name;
  }
  const json config = json::parse(bytes_of(scratch.file("out/adapter_config.json")));
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["lora_alpha"], 3);
  EXPECT_EQ(config["fan_in_fan_out"], GetParam() == "gpt2");
  const json targets =
      GetParam() == "gpt2" ? json{"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
      : GetParam() == "qwen2"
          ? json{"self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"}
          : json{"mlp.down_proj",    "mlp.gate_proj",    "mlp.up_proj",     "self_attn.k_proj",
                 "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"};
  EXPECT_EQ(config["target_modules"], targets);
}

INSTANTIATE_TEST_SUITE_P(Peft, Adapters, ::testing::Values("gpt2", "llama", "qwen2"),
                         [](const auto& family) { return family.param; });

// Queries, values and one half of the gated product, each with an A of its own.
LoraOptions options_of_parts() {
  LoraOptions options;
  options.rank = 2;
  options.alpha = 3;
  options.targets = {"*.query.*", "*.value.*", "*.up.*"};
  return options;
}

TEST(Peft, AdaptersOfPartsAreGoneOnWithAndWrittenAgain) {
  const std::string files = LOCKSTEP_EXCHANGE_FILES "/llama_peft";
  const json golden = json::parse(bytes_of(files + "/logits.json"));
  json flat = golden;
  flat["tokens"] = json::array();
  for (const json& row : golden["tokens"])
    for (const json& token : row) flat["tokens"].push_back(token);
  AdaptedModel adapted("llama", options_of_parts());
  ASSERT_EQ(adapted.store.parameters().size(), 2u * 2 * 3);
  EXPECT_EQ(adapted.store.parameters().front().name, "blocks.0.attention.qkv.query.lora_a");
  const std::vector<float> base = AdaptedModel("llama", {}).logits(flat).to_vector<float>();
  EXPECT_EQ(adapted.logits(flat).to_vector<float>(), base);

  const PeftAdapter adapter(files);
  State state = adapter_parameters(adapter, adapted.source->options(), adapted.source->vocabulary(),
                                   options_of_parts(), adapted.store.parameters());
  ASSERT_EQ(state.arrays.size(), adapted.store.parameters().size());
  for (size_t i = 0; i < state.arrays.size(); ++i) {
    const ParameterEntry& entry = adapted.store.parameters()[i];
    const StateArray& array = state.arrays[i];
    ASSERT_EQ(array.path, "/parameters/" + entry.name);
    ASSERT_EQ(array.shape, entry.shape);
    std::vector<float> values(static_cast<size_t>(entry.shape.elements()));
    std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
    adapted.store.parameter(static_cast<int>(i)).assign(Tensor::from(entry.shape, values, test_backend()));
  }
  expect_near(adapted.logits(flat), golden["logits"], "logits");

  const ScratchDirectory scratch;
  ExportOptions to;
  to.directory = scratch.file("out");
  export_adapter(state, "here", adapted.source->options(), adapted.source->vocabulary(),
                 {options_of_parts(), "base"}, to);
  const SafetensorsFile ours(scratch.file("out/adapter_model.safetensors")),
      theirs(files + "/adapter_model.safetensors");
  ASSERT_EQ(ours.entries().size(), theirs.entries().size());
  for (const SafetensorsEntry& entry : theirs.entries()) {
    const SafetensorsEntry* const found = ours.find(entry.name);
    ASSERT_NE(found, nullptr) << entry.name;
    EXPECT_EQ(ours.read(*found), theirs.read(entry)) << entry.name;
  }
  EXPECT_EQ(json::parse(bytes_of(scratch.file("out/adapter_config.json")))["target_modules"],
            (json{"mlp.up_proj", "self_attn.q_proj", "self_attn.v_proj"}));

  const auto refused = [&](const LoraOptions& options, std::initializer_list<std::string> says) {
    const AdaptedModel other("llama", options);
    expect_rejection(ErrorKind::kCheckpoint, says, [&] {
      adapter_parameters(adapter, other.source->options(), other.source->vocabulary(), options,
                         other.store.parameters());
    });
  };
  LoraOptions options = options_of_parts();
  options.rank = 1;
  refused(options, {"layers.0.self_attn.q_proj: has rank 2, lora.rank is 1"});
  options = options_of_parts();
  options.alpha = 4;
  refused(options, {"is scaled by 1.5, lora.alpha / lora.rank is 2"});
  options = options_of_parts();
  options.targets = {"*.query.*", "*.value.*"};
  refused(options, {"up_proj: is not among what lora.targets names"});
  options.targets.emplace_back("*.gate.*");
  refused(options, {"layers.0.mlp.gate_proj: is not there, and lora.targets has blocks.0.expand.gate"});
  options.targets = {"*.attention.qkv.*"};
  refused(options, {"k_proj: is not there"});
}

TEST(Peft, PartsOfGpt2AreExportedMergedAlone) {
  const AdaptedModel adapted("gpt2", {.rank = 2, .targets = {"*.value.*"}});
  State state;
  for (const ParameterEntry& entry : adapted.store.parameters()) {
    StateArray array{"/parameters/" + entry.name, DType::kF32, entry.shape, {}};
    array.bytes.resize(static_cast<size_t>(entry.shape.elements()) * sizeof(float));
    state.arrays.push_back(std::move(array));
  }
  expect_rejection(ErrorKind::kUsage, {"blocks.0.attention.qkv.value", "attn.c_attn", "merged"}, [&] {
    export_adapter(state, "here", adapted.source->options(), adapted.source->vocabulary(),
                   {{.rank = 2}, "base"}, {.directory = "nowhere", .tokenizer = {}});
  });
}

class ChangedAdapter : public ::testing::Test {
 protected:
  ChangedAdapter() {
    std::filesystem::copy(LOCKSTEP_EXCHANGE_FILES "/llama_peft", path_);
    std::filesystem::copy(LOCKSTEP_EXCHANGE_FILES "/llama", scratch_.file("llama"));
  }
  void refused(const json& patch, std::initializer_list<std::string> says) {
    json config = json::parse(bytes_of(LOCKSTEP_EXCHANGE_FILES "/llama_peft/adapter_config.json"));
    config.update(patch);
    std::ofstream(path_ + "/adapter_config.json") << config;
    expect_rejection(ErrorKind::kCheckpoint, says, [&] { open_weights(path_); });
  }
  ScratchDirectory scratch_;
  std::string path_ = scratch_.file("adapter");
};

TEST_F(ChangedAdapter, ThatIsSomethingElseIsRefusedByItsKey) {
  refused({{"peft_type", "IA3"}}, {"adapter_config.json: peft_type: only LORA", "IA3"});
  refused({{"use_dora", true}}, {"use_dora: is not known here"});
  refused({{"bias", "all"}}, {"bias: only none"});
  refused({{"modules_to_save", {"lm_head"}}}, {"modules_to_save"});
  refused({{"init_lora_weights", "pissa_niter_4"}}, {"init_lora_weights", "changes the base"});
  refused({{"alpha_pattern", {{".*q_proj", 2}}}}, {"alpha_pattern", "names of modules"});
  refused({{"lora_alpha", "x"}}, {"lora_alpha: must be a number"});
  refused({{"r", 0}}, {"r: must be a whole number"});
  refused({{"some_new_method", 3}}, {"some_new_method: is not known here"});
  refused({{"base_model_name_or_path", "meta/llama"}},
          {"its base \"meta/llama\" is no directory here", "--base"});
  refused({{"base_model_name_or_path", nullptr}}, {"its base \"\" is no directory here"});
  refused({{"base_model_name_or_path", path_}}, {"is an adapter itself"});
  refused({{"base_model_name_or_path", LOCKSTEP_EXCHANGE_FILES "/gpt2"}},
          {"layers.0.mlp.up_proj: is no product of the base's blocks"});
  expect_rejection(ErrorKind::kUsage, {"--base x", "has all of its weights"},
                   [&] { open_weights(scratch_.file("llama"), "x"); });
}

TEST_F(ChangedAdapter, NamesTheTensorThatDoesNotFit) {
  const std::string file = path_ + "/adapter_model.safetensors";
  const auto with = [&](const std::string& name, const Shape& shape, const std::string& removed = "") {
    std::vector<SafetensorsTensor> tensors;
    const SafetensorsFile given(LOCKSTEP_EXCHANGE_FILES "/llama_peft/adapter_model.safetensors");
    for (const SafetensorsEntry& entry : given.entries()) {
      if (entry.name == name || entry.name == removed) continue;
      tensors.push_back({entry.name, entry.shape, [&given, &entry] { return given.read(entry); }});
    }
    if (!name.empty()) {
      tensors.push_back(
          {name, shape, [shape] { return std::vector<float>(static_cast<size_t>(shape.elements())); }});
    }
    write_safetensors(file, tensors, DType::kF32);
  };
  const std::string query = "base_model.model.model.layers.0.self_attn.q_proj";
  with("base_model.model.lm_head.weight", {11, 8});
  refused(json::object(), {file, "lm_head.weight: is no matrix of LoRA"});
  with(query + ".lora_A.weight", {2, 9});
  refused(json::object(), {"q_proj: changes a matrix of (9,16), the model's is (8,16)"});
  with(query + ".lora_A.weight", {3, 8});
  refused(json::object(), {"q_proj: lora_A (3,8) and lora_B (16,2) differ in rank"});
  with("", {}, query + ".lora_B.weight");
  refused(json::object(), {"q_proj: has one of lora_A and lora_B alone"});
  with("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", {2, 8});
  refused(json::object(), {"layers.7.self_attn.q_proj: has one of"});
  std::filesystem::rename(file, path_ + "/adapter_model.bin");
  refused(json::object(), {"adapter_model.safetensors: no such file", "convert"});
}

TEST(Lora, RefusesWhatFitsNoMatrix) {
  const auto refused = [](LoraOptions options, std::initializer_list<std::string> says) {
    expect_rejection(ErrorKind::kUsage, says, [&] { AdaptedModel("gpt2", options); });
  };
  LoraOptions options;
  options.rank = 9;
  refused(options, {"lora.rank: at most 8 for blocks.0.attention.qkv.weight (8,24), got 9"});
  options.rank = 2;
  options.targets = {"*.attention.*", "*.q_proj.*"};
  refused(options, {"lora: targets: pattern \"*.q_proj.*\" fits no matrix", "blocks.1.contract.weight"});
  options.targets = {"*.query.*", "*.attention.*"};
  refused(options, {"lora: targets: pattern \"*.query.*\" fits blocks.0.attention.qkv.query.weight, a part"});
  options.targets = {"*.query.*", "blocks.0.attention.*", "*.qkv.query.*"};  // of the other block, and again
  EXPECT_NO_THROW(AdaptedModel("gpt2", options));
  options.targets = {};
  refused(options, {"lora: targets: names none"});
  options.targets = {"*"};
  options.rank = -1;
  refused(options, {"lora: rank: must be in [1, 65536], got -1"});
  // Of the whole model: names of some blocks alone.
  LoraPlan plan({.rank = 1, .targets = {"blocks.0.expand.weight"}});
  ParameterStore store;
  make_gpt(resolved({.layers = 2, .width = 4, .heads = 1}, 3), {{3}, DType::kI32, 7, 1, {3}},
           ModuleBuilder(store, "", &plan));
  ASSERT_EQ(store.parameters().size(), 2u);
  EXPECT_EQ(store.parameters()[0].name, "blocks.0.expand.lora_a");
  EXPECT_EQ(store.parameters()[1].shape, (Shape{1, 16}));
}

}  // namespace
}  // namespace lockstep
