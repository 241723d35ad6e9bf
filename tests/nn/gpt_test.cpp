// GPT: what transformers computes from the same parameters (goldens of make_gpt_goldens.py), sizes, and what
// a position may depend on.
#include "lockstep/nn/gpt.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/configuration.h"
#include "lockstep/nn/refused_option.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/movement.h"
#include "lockstep/optim/optimizer.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

DataShape windows(int64_t length, int64_t classes) {
  return {{length}, DType::kI32, classes, 1, {length}};
}

struct GoldenGpt {
  nlohmann::json golden;
  BuiltModel model;
  Tensor tokens, labels;

  GoldenGpt(const std::string& name, DType dtype)
      : golden(nlohmann::json::parse(std::ifstream(LOCKSTEP_NN_GOLDENS "/gpt_" + name + ".json"))),
        model(golden.at("toml"), windows(golden.at("shape")[1], golden.at("classes"))) {
    model.allocate(dtype);
    const Shape shape{golden.at("shape")[0], golden.at("shape")[1]};
    tokens = Tensor::from(shape, golden.at("tokens").get<std::vector<int32_t>>(), test_backend());
    labels =
        Tensor::from({shape.elements()}, golden.at("labels").get<std::vector<int32_t>>(), test_backend());
    EXPECT_EQ(model.store.parameters().size(), golden.at("parameters").size());
    for (size_t i = 0; i < model.store.parameters().size(); ++i) {
      const ParameterEntry& entry = model.store.parameters()[i];
      Tensor values = model.store.parameter(static_cast<int>(i));
      values.assign(Tensor::from(entry.shape, of_name(entry.name).at("values").get<std::vector<double>>(),
                                 test_backend())
                        .converted(dtype));
    }
  }
  const nlohmann::json& of_name(const std::string& name) const {
    for (const nlohmann::json& entry : golden.at("parameters")) {
      if (entry.at("name") == name) return entry;
    }
    throw std::runtime_error("the golden has no " + name);
  }
};

void expect_near(const Tensor& found, const nlohmann::json& expected, double bound, const std::string& what) {
  const std::vector<double> values = found.to_vector<double>();
  ASSERT_EQ(values.size(), expected.size()) << what;
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(values[i], expected[i].get<double>(), bound * (1.0 + std::abs(expected[i].get<double>())))
        << what << "[" << i << "]";
  }
}

class Gpt : public testing::TestWithParam<const char*> {};

TEST_P(Gpt, LogitsLossesAndGradientsAgreeWithTransformers) {
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    // A GPU adds in another order, and the norm of the embeddings multiplies what that makes of gradients by
    // the reciprocal of their small root mean square.
    const double bound = dtype == DType::kF64 ? 1e-10 : test_device() == "cpu" ? 1e-5 : 2e-5;
    const GoldenGpt gpt(GetParam(), dtype);
    ForwardContext context = forward_context(gpt.model.store, true);
    expect_near(gpt.model.module->forward(gpt.tokens, context), gpt.golden.at("logits"), bound, "logits");
    const Tensor losses = head_losses(*gpt.model.module->class_head(gpt.tokens, context), gpt.labels);
    expect_near(losses, gpt.golden.at("losses"), bound, "losses");
    size_t count = 0;
    backward(losses, losses.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
      const std::string& name = gpt.model.store.parameters()[static_cast<size_t>(leaf.index)].name;
      expect_near(gradient, gpt.of_name(name).at("gradient"), bound, name);
      ++count;
    });
    EXPECT_EQ(count, gpt.model.store.parameters().size());
  }
}

TEST_P(Gpt, TenStepsOfAdamwFollowPyTorch) {
  GoldenGpt gpt(GetParam(), DType::kF64);
  ParameterStore& store = gpt.model.store;
  const nlohmann::json& run = gpt.golden.at("adamw");
  Configuration configuration = Configuration::parse(
      "[optimizer]\ntype = \"adamw\"\nweight_decay = " + run.at("weight_decay").dump() + "\n", "test.toml",
      {});
  Section section = configuration.section("optimizer");
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(section);
  optimizer->allocate(store.parameters(), store.parameter_extent(), {{0, store.parameter_extent()}},
                      DType::kF64, test_backend());
  const std::vector<UpdateSegment> all = {{0, store.parameter_extent()}};
  std::vector<double> path;
  for (size_t step = 0; step < run.at("losses").size(); ++step) {
    ForwardContext context = forward_context(store, true);
    const Tensor losses = head_losses(*gpt.model.module->class_head(gpt.tokens, context), gpt.labels);
    double sum = 0.0;
    for (const double loss : losses.to_vector<double>()) sum += loss;
    path.push_back(sum / static_cast<double>(losses.elements()));
    Tensor gradient = Tensor::zeros({store.parameter_extent()}, DType::kF64, test_backend());
    backward(losses, losses.full_like(1.0), [&](const Leaf& leaf, const Tensor& part) {
      Tensor to = gradient.view(part.shape(), store.parameters()[static_cast<size_t>(leaf.index)].offset);
      to.assign(part);
    });
    UpdateContext update;
    update.parameters = store.values();
    update.gradients = gradient;
    update.gradient_scale = 1.0 / static_cast<double>(losses.elements());
    update.learning_rate = run.at("learning_rate");
    update.segments = all;
    optimizer->update(update);
  }
  for (size_t step = 0; step < path.size(); ++step) {
    EXPECT_NEAR(path[step], run.at("losses")[step].get<double>(), 1e-9) << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, Gpt,
                         testing::Values("gpt2", "llama", "llama_linear", "qwen2", "qwen3", "mistral"),
                         [](const auto& variant) { return std::string(variant.param); });

// Logits of 0, 1, 2, ... as tokens, the last or the first replaced.
std::vector<float> logits_of(const BuiltModel& model, std::vector<int32_t> tokens) {
  ForwardContext context = forward_context(model.store, false);
  const auto length = static_cast<int64_t>(tokens.size());
  return model.module->forward(Tensor::from({1, length}, tokens, test_backend()), context).to_vector<float>();
}

TEST(GptModel, NoPositionDependsOnThoseBehindItOrBeforeItsWindow) {
  for (const std::string positions : {"learned", "rotary"}) {
    BuiltModel model("[model]\ntype = 'gpt'\nlayers = 1\nwidth = 8\nheads = 2\nwindow = 3\npositions = '" +
                         positions + "'\n",
                     windows(6, 7));
    model.allocate(DType::kF32);
    const std::vector<float> logits = logits_of(model, {0, 1, 2, 3, 4, 5});
    const std::vector<float> last = logits_of(model, {0, 1, 2, 3, 4, 6});
    const std::vector<float> first = logits_of(model, {6, 1, 2, 3, 4, 5});
    for (size_t i = 0; i < logits.size(); ++i) {
      const size_t position = i / 7;
      EXPECT_EQ(logits[i] == last[i], position < 5) << positions << " " << i;
      EXPECT_EQ(logits[i] == first[i], position >= 3) << positions << " " << i;
    }
  }
}

TEST(GptModel, DocumentsOfAWindowAreAsIfEachStoodAlone) {
  for (const std::string positions : {"learned", "rotary"}) {
    for (const int window : {0, 2}) {
      BuiltModel model("[model]\ntype = 'gpt'\nlayers = 2\nwidth = 8\nheads = 2\ndeviation = 0.5\nwindow = " +
                           std::to_string(window) + "\npositions = '" + positions + "'\n",
                       windows(7, 9));
      model.allocate(DType::kF64);
      EXPECT_TRUE(model.module->reads("documents"));
      EXPECT_FALSE(model.module->reads("images"));
      const auto packed = [&](const std::vector<int32_t>& tokens) {
        NamedTensors fields;
        fields.set("documents",
                   Tensor::from({1, 7}, std::vector<int32_t>{4, 4, 4, 5, 5, 5, 5}, test_backend()));
        ForwardContext context = forward_context(model.store, false);
        context.batch = &fields;
        return model.module->forward(Tensor::from({1, 7}, tokens, test_backend()), context)
            .to_vector<double>();
      };
      const std::vector<double> logits = packed({0, 1, 2, 3, 4, 5, 6});
      // Not a bit of one document goes into another.
      const std::vector<double> first = packed({8, 7, 8, 3, 4, 5, 6}), second = packed({0, 1, 2, 8, 7, 8, 7});
      ForwardContext context = forward_context(model.store, false);
      const std::vector<double> alone =
          model.module
              ->forward(Tensor::from({1, 4}, std::vector<int32_t>{3, 4, 5, 6}, test_backend()), context)
              .to_vector<double>();
      for (size_t i = 0; i < logits.size(); ++i) {
        const bool of_first = i < 3 * 9;
        EXPECT_EQ(logits[i] == first[i], !of_first) << positions << " " << i;
        EXPECT_EQ(logits[i] == second[i], of_first) << positions << " " << i;
        if (of_first) continue;
        EXPECT_NEAR(logits[i], alone[i - 3 * 9], 1e-12) << positions << " " << i;
      }
    }
  }
}

TEST(GptModel, CountsTheOperationsOfItsProducts) {
  // 2 (4 x 12 C^2 + V C) a token, and 4 C a pair of a query and a key of every block.
  const BuiltModel gpt("[model]\ntype = 'gpt'\nwidth = 8\nheads = 2\n", windows(6, 7));
  EXPECT_EQ(gpt.module->operations(), 2.0 * 6 * (4 * 12 * 64 + 7 * 8) + 4.0 * 8 * 4 * 21);
  const BuiltModel llama(
      "[model]\ntype = 'gpt'\nlayers = 1\nwidth = 8\nheads = 2\nkv_heads = 1\nactivation = 'swiglu'\n"
      "feedforward = 5\nwindow = 2\n",
      windows(6, 7));
  EXPECT_EQ(llama.module->operations(), 2.0 * 6 * (8 * 8 + 8 * 8 + 8 * 8 + 3 * 8 * 5 + 7 * 8) + 4.0 * 8 * 11);
}

TEST(GptModel, DropsInTrainingWhatItsKeysSay) {
  const Tensor tokens = Tensor::from({1, 5}, std::vector<int32_t>{0, 1, 2, 3, 4}, test_backend());
  const auto logits = [&](const std::string& keys, bool training, uint32_t micro_batch = 7) {
    BuiltModel model("[model]\ntype = 'gpt'\nlayers = 1\nwidth = 8\nheads = 2\ndeviation = 0.5\n" + keys,
                     windows(5, 7));
    model.allocate(DType::kF64);
    ForwardContext context = forward_context(model.store, training);
    const RandomScope random(5, 6, micro_batch);
    return model.module->forward(tokens, context).to_vector<double>();
  };
  const std::vector<double> plain = logits("", true);
  std::vector<std::vector<double>> found;
  for (const std::string key : {"attention_dropout", "residual_dropout", "embedding_dropout", "dropout"}) {
    found.push_back(logits(key + " = 0.5\n", true));
    EXPECT_NE(found.back(), plain) << key;
    EXPECT_EQ(logits(key + " = 0.5\n", false), plain) << key;
    EXPECT_EQ(logits(key + " = 0.5\n", true), found.back()) << key;
    EXPECT_NE(logits(key + " = 0.5\n", true, 8), found.back()) << key;
    for (size_t i = 0; i + 1 < found.size(); ++i) EXPECT_NE(found[i], found.back()) << key << " " << i;
  }
  EXPECT_EQ(logits("dropout = 0.5\nattention_dropout = 0\nresidual_dropout = 0\n", true), found[2]);
  EXPECT_EQ(logits("attention_dropout = 0.5\nresidual_dropout = 0.5\nembedding_dropout = 0.5\n", true),
            found[3]);
}

class RecomputedGpt : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(GptModel, RecomputedGpt,
                         ::testing::Values("", "qk_norm = true\n", "norm = 'rms'\nactivation = 'swiglu'\n",
                                           "activation = 'relu_squared'\n",
                                           "activation = 'gelu'\nfeedforward_bias = false\n"));

TEST_P(RecomputedGpt, GivesTheSameBits) {
  BuiltModel model(
      std::string("[model]\ntype = 'gpt'\nlayers = 3\nwidth = 8\nheads = 2\ndropout = 0.3\n") + GetParam(),
      windows(5, 7));
  model.allocate(DType::kF32);
  const Tensor tokens =
      Tensor::from({2, 5}, std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 0, 1, 2}, test_backend());
  std::vector<std::vector<std::vector<float>>> gradients;
  std::vector<size_t> bytes;
  constexpr int64_t kCheap = -1;
  for (const int64_t every : {int64_t{0}, int64_t{1}, int64_t{2}, kCheap}) {
    ForwardContext context = forward_context(model.store, true);
    context.recompute_every = std::max(every, int64_t{0});
    const RandomScope random(5, 6, 7);
    const LeaveCheapScope leave(every == kCheap);
    const size_t before = allocator_statistics().bytes_in_use;
    const Tensor losses =
        head_losses(*model.module->class_head(tokens, context), tokens.view({tokens.elements()}));
    bytes.push_back(allocator_statistics().bytes_in_use - before);
    gradients.emplace_back(model.store.parameters().size());
    backward(losses, losses.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
      gradients.back()[static_cast<size_t>(leaf.index)] = gradient.to_vector<float>();
    });
  }
  EXPECT_EQ(gradients[1], gradients[0]);
  EXPECT_EQ(gradients[2], gradients[0]);
  EXPECT_EQ(gradients[3], gradients[0]);
  EXPECT_LT(bytes[3], bytes[0]);
}

TEST(GptModel, PresetsHaveTheParametersOfTheModelsThatTheyAreNamedAfter) {
  const std::vector<std::tuple<std::string, int64_t, int64_t>> sizes = {
      {"gpt2_124m", 50257, 124439808},   {"gpt2_355m", 50257, 354823168},  {"gpt2_774m", 50257, 774030080},
      {"gpt2_1558m", 50257, 1557611200}, {"llama_15m", 32000, 15191712},   {"llama_110m", 32000, 109529856},
      {"llama3_1b", 128256, 1235814400}, {"llama3_8b", 128256, 8030261248}};
  for (const auto& [name, classes, count] : sizes) {
    const BuiltModel model("[model]\ntype = 'gpt'\npreset = '" + name + "'\n", windows(64, classes));
    EXPECT_EQ(model.store.parameter_count(), count) << name;
  }
  const BuiltModel small("[model]\ntype = 'gpt'\npreset = 'gpt2_124m'\nlayers = 1\ncontext = 8\n",
                         windows(8, 50257));
  EXPECT_EQ(small.store.parameter_count(), 124439808 - 11 * 7087872 - 1016 * 768);
}

TEST(GptModel, InitialWeightsHaveTheirDeviations) {
  BuiltModel model("[model]\ntype = 'gpt'\nlayers = 2\nwidth = 64\n", windows(4, 50));
  model.allocate(DType::kF32);
  for (size_t i = 0; i < model.store.parameters().size(); ++i) {
    const ParameterEntry& entry = model.store.parameters()[i];
    if (entry.name.find(".weight") == std::string::npos || entry.shape.elements() < 4000) continue;
    double squares = 0.0;
    for (const double value : model.store.parameter(static_cast<int>(i)).to_vector<double>()) {
      squares += value * value;
    }
    const bool at_sum = entry.name.find("contract") != std::string::npos ||
                        entry.name.find("attention.output") != std::string::npos;
    const double expected = at_sum ? 0.01 : 0.02;  // 0.02 / sqrt(2 * 2)
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(entry.shape.elements())), expected, 0.05 * expected)
        << entry.name;
  }
}

TEST(GptModel, RefusesOptionsThatDoNotFit) {
  const auto refused = [](const std::string& keys, const std::string& rule,
                          const DataShape& data = windows(6, 7)) {
    const std::string error = build_error("[model]\ntype = 'gpt'\n" + keys, data);
    EXPECT_NE(error.find(rule), std::string::npos) << error;
  };
  refused("heads = 3\n", "model.heads: must divide the width 128");
  refused("kv_heads = 3\n", "model.kv_heads: must divide the 4 heads, got 3");
  refused("head_size = 257\n", "model.head_size: at most 256, got 257");
  refused("head_size = 3\npositions = 'rotary'\n", "model.head_size: must be even");
  refused("context = 5\n", "model.context: must hold the data's windows of 6 tokens, got 5");
  refused("rotary_theta = 500.0\n", "model.positions: rotary options need positions = \"rotary\"");
  refused("positions = 'rotary'\nrotary_factor = 2.0\n", "model.rotary_factor: 2 needs rotary_scaling");
  const std::string rotary = "positions = 'rotary'\n", linear = rotary + "rotary_scaling = 'linear'\n";
  refused(linear + "rotary_original_context = 64\n",
          "model.rotary_original_context: goes with rotary_scaling = \"llama3\", which is \"linear\"");
  refused(rotary + "rotary_low_frequency = 2.0\n", "model.rotary_low_frequency: goes with rotary_scaling");
  refused(linear + "rotary_high_frequency = 8.0\n", "model.rotary_high_frequency: goes with rotary_scaling");
  // What was trained so is read all the same.
  Configuration trained =
      Configuration::parse("[model]\n" + linear + "rotary_original_context = 64\n", "old", {});
  Section section = trained.section("model");
  EXPECT_EQ(resolved(read_gpt(section), 6).rotary.original_context, 64);
  refused("norm = 'rms'\nnorm_bias = true\n", "model.norm_bias: RMS norms have none");
  refused("preset = 'gpt3'\n", "gpt2_124m");
  refused("dropout = 1.0\n", "model.dropout: must be < 1");
  refused("attention_dropout = 1.0\n", "model.attention_dropout: must be < 1");
  refused("residual_dropout = -0.1\n", "model.residual_dropout: must be in");
  refused("", "model.type: takes windows of tokens", {{6}, DType::kF32, 7, 1, {6}});
  refused("", "model.type: takes windows of tokens", {{6}, DType::kI32, 7});
}

TEST(GptModel, TokensOutsideOfTheVocabularyAreNamed) {
  BuiltModel model("[model]\ntype = 'gpt'\nlayers = 1\nwidth = 8\nheads = 1\n", windows(2, 7));
  model.allocate(DType::kF32);
  EXPECT_EQ(model.module->index_limit(), 7);
  EXPECT_THROW(logits_of(model, {0, 7}), Error);
}

}  // namespace
}  // namespace lockstep
