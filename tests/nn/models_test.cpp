// What models declare: parameter names, shapes, counts, output shapes, and how a wrong configuration is
// refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/node.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/nn/layer.h"
#include "lockstep/ops/matmul.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Shape output_shape(BuiltModel& model, const Shape& input) {
  model.allocate(DType::kF32);
  ForwardContext context = forward_context(model.store, true);
  RandomScope random(1, 0, 0);
  const Tensor x =
      Tensor::from(input, std::vector<float>(static_cast<size_t>(input.elements()), 0.5f), test_backend());
  return model.module->forward(x, context).shape();
}

TEST(Logistic, GivesOneLogitForTwoClassesAndOneAClassOtherwise) {
  BuiltModel binary("[model]\ntype = 'logistic'", {{30}, DType::kF32, 2});
  EXPECT_THAT(binary.parameter_names(), ElementsAre("output.weight (30,1)", "output.bias (1)"));
  EXPECT_EQ(output_shape(binary, {5, 30}), (Shape{5, 1}));
  BuiltModel softmax("[model]\ntype = 'logistic'", kDigits);
  EXPECT_THAT(softmax.parameter_names(), ElementsAre("output.weight (64,10)", "output.bias (10)"));
  EXPECT_EQ(output_shape(softmax, {5, 8, 8, 1}), (Shape{5, 10}));
}

TEST(Logistic, StartsAtZero) {
  BuiltModel model("[model]\ntype = 'logistic'", kDigits);
  model.allocate();
  for (double value : model.store.values().to_vector<double>()) EXPECT_EQ(value, 0.0);
}

TEST(Logistic, RefusesRegressionData) {
  EXPECT_THAT(build_error("[model]\ntype = 'logistic'", {{3}, DType::kF32, 0, 1}),
              HasSubstr("model.type: logistic needs data with at least 2 classes, got 0"));
}

TEST(Mlp, DeclaresItsHiddenLayersInOrder) {
  BuiltModel model("[model]\ntype = 'mlp'\nhidden = [128, 32]\nactivation = 'tanh'\ndropout = 0.25",
                   kFlatDigits);
  EXPECT_THAT(model.parameter_names(),
              ElementsAre("hidden.0.weight (64,128)", "hidden.0.bias (128)", "hidden.1.weight (128,32)",
                          "hidden.1.bias (32)", "output.weight (32,10)", "output.bias (10)"));
  EXPECT_EQ(model.store.parameter_count(), 64 * 128 + 128 + 128 * 32 + 32 + 32 * 10 + 10);
  EXPECT_EQ(output_shape(model, {3, 64}), (Shape{3, 10}));
}

TEST(Mlp, TakesImagesAndNoHiddenLayers) {
  BuiltModel model("[model]\ntype = 'mlp'\nhidden = []", {{8, 8, 1}, DType::kF32, 0, 2});
  EXPECT_THAT(model.parameter_names(), ElementsAre("output.weight (64,2)", "output.bias (2)"));
  EXPECT_EQ(output_shape(model, {3, 8, 8, 1}), (Shape{3, 2}));
}

TEST(Mlp, ComputesTheTextbookFormula) {
  BuiltModel model("[model]\ntype = 'mlp'\nhidden = [4]\nactivation = 'softplus'", {{3}, DType::kF32, 2});
  model.allocate();
  const std::vector<double> x = uniform_values(2 * 3, 1);
  ForwardContext context = forward_context(model.store, false);
  const auto y = model.module->forward(Tensor::from({2, 3}, x, test_backend()), context).to_vector<double>();
  const auto w0 = model.store.parameter(0).to_vector<double>(),
             w1 = model.store.parameter(2).to_vector<double>();
  for (size_t b = 0; b < 2; ++b) {
    double hidden[4];
    for (size_t j = 0; j < 4; ++j) {
      double sum = 0.0;
      for (size_t i = 0; i < 3; ++i) sum += x[b * 3 + i] * w0[i * 4 + j];
      hidden[j] = std::log1p(std::exp(sum));
    }
    for (size_t k = 0; k < 2; ++k) {
      double sum = 0.0;
      for (size_t j = 0; j < 4; ++j) sum += hidden[j] * w1[j * 2 + k];
      EXPECT_NEAR(y[b * 2 + k], sum, 1e-12);
    }
  }
}

TEST(Cnn, DeclaresStemStagesAndHead) {
  BuiltModel model("[model]\ntype = 'cnn'\nchannels = [4, 8]\nstrides = [1, 2]\nblocks = 1", kDigits);
  EXPECT_THAT(model.parameter_names(),
              ElementsAre("stem.convolution.weight (4,3,3,1)", "stem.norm.gamma (4)", "stem.norm.beta (4)",
                          "stages.0.0.first.convolution.weight (4,3,3,4)", "stages.0.0.first.norm.gamma (4)",
                          "stages.0.0.first.norm.beta (4)", "stages.0.0.second.convolution.weight (4,3,3,4)",
                          "stages.0.0.second.norm.gamma (4)", "stages.0.0.second.norm.beta (4)",
                          "stages.1.0.first.convolution.weight (8,3,3,4)", "stages.1.0.first.norm.gamma (8)",
                          "stages.1.0.first.norm.beta (8)", "stages.1.0.second.convolution.weight (8,3,3,8)",
                          "stages.1.0.second.norm.gamma (8)", "stages.1.0.second.norm.beta (8)",
                          "stages.1.0.projection.convolution.weight (8,1,1,4)",
                          "stages.1.0.projection.norm.gamma (8)", "stages.1.0.projection.norm.beta (8)",
                          "output.weight (8,10)", "output.bias (10)"));
  EXPECT_EQ(model.store.statistics().size(), 12u);  // mean and variance of six norms
  EXPECT_EQ(model.store.statistics()[0].name, "stem.norm.running_mean");
  EXPECT_EQ(output_shape(model, {3, 8, 8, 1}), (Shape{3, 10}));
}

TEST(Cnn, HasBiasesInsteadOfNormsWhenAskedAndStacksBlocks) {
  BuiltModel model(
      "[model]\ntype = 'cnn'\nchannels = [4]\nstrides = [3]\nblocks = 2\nbatch_norm = false\ndropout = 0.1",
      {{7, 5, 3}, DType::kF32, 4});
  EXPECT_TRUE(model.store.statistics().empty());
  EXPECT_EQ(model.store.parameter_count(), (27 * 4 + 4) + (36 * 4 + 4) * 4 + (4 * 4 + 4) + (4 * 4 + 4));
  EXPECT_EQ(output_shape(model, {2, 7, 5, 3}), (Shape{2, 4}));
}

TEST(Cnn, TellsThatDataMustBeImages) {
  EXPECT_EQ(build_error("[model]\ntype = 'cnn'", kFlatDigits),
            "test.toml: model.type: cnn: data must be (H,W,C), got samples of shape (64)");
}

TEST(Cnn, RefusesStagesWithoutStrides) {
  EXPECT_EQ(build_error("[model]\ntype = 'cnn'\nchannels = [4, 8]", kDigits),
            "test.toml: model.strides: must give one stride for each of the 2 stages in channels, got 3");
  EXPECT_THAT(build_error("[model]\ntype = 'cnn'\nchannels = []", kDigits),
              HasSubstr("model.channels: must name"));
  EXPECT_THAT(build_error("[model]\ntype = 'cnn'\nblocks = 0", kDigits), HasSubstr("model.blocks"));
}

constexpr const char* kEveryImageLayer = R"(
[model]
type = "sequential"
[[model.layers]]
type = "convolution"
channels = 6
kernel = 5
padding = 2
bias = false
[[model.layers]]
type = "batch_norm"
[[model.layers]]
type = "activation"
function = "gelu"
[[model.layers]]
type = "max_pool"
kernel = 3
stride = 2
padding = 1
[[model.layers]]
type = "residual_block"
channels = 8
stride = 2
[[model.layers]]
type = "average_pool"
kernel = 2
stride = 1
[[model.layers]]
type = "flatten"
[[model.layers]]
type = "linear"
units = 12
activation = "sigmoid"
initialization = "xavier_uniform"
[[model.layers]]
type = "layer_norm"
[[model.layers]]
type = "dropout"
probability = 0.2
[[model.layers]]
type = "linear"
units = 10
bias = false
)";

TEST(Sequential, InfersShapesFromLayerToLayer) {
  BuiltModel model(kEveryImageLayer, kDigits);
  const std::vector<std::string> names = model.parameter_names();
  EXPECT_EQ(names[0], "layers.0.weight (6,5,5,1)");
  EXPECT_EQ(names[1], "layers.1.gamma (6)");
  EXPECT_THAT(names, testing::Contains("layers.4.projection.convolution.weight (8,1,1,6)"));
  EXPECT_THAT(names, testing::Contains("layers.7.weight (8,12)"));  // (8,8,6) -> 4x4 -> 2x2 -> (1,1,8) -> 8
  EXPECT_THAT(names, testing::Contains("layers.8.gamma (12)"));
  EXPECT_EQ(names.back(), "layers.10.weight (12,10)");
  EXPECT_EQ(output_shape(model, {3, 8, 8, 1}), (Shape{3, 10}));
}

TEST(Sequential, EmbedsTableIndices) {
  BuiltModel model(
      "[model]\ntype = 'sequential'\nlayers = [{type = 'embedding', rows = 11, width = 4}, {type = 'linear', "
      "units = 3},"
      "{type = 'flatten'}, {type = 'linear', units = 2}]",
      {{5}, DType::kI32, 2});
  EXPECT_THAT(model.parameter_names(),
              ElementsAre("layers.0.weight (11,4)", "layers.1.weight (4,3)", "layers.1.bias (3)",
                          "layers.3.weight (15,2)", "layers.3.bias (2)"));
  model.allocate();
  ForwardContext context = forward_context(model.store, false);
  const Tensor indices =
      Tensor::from({2, 5}, std::vector<int32_t>{0, 1, 2, 3, 4, 10, 9, 8, 7, 6}, test_backend());
  EXPECT_EQ(model.module->forward(indices, context).shape(), (Shape{2, 2}));
}

TEST(Sequential, ReadsTheRowsOfAnImageAsStepsOfARecurrentLayer) {
  BuiltModel model(
      "[model]\ntype = 'sequential'\nlayers = [{type = 'recurrent', cell = 'gru', units = 5, return = "
      "'sequence'}, {type = 'recurrent', cell = 'rnn_relu', units = 4, direction = 'both'}, "
      "{type = 'linear', units = 10}]",
      kDigits);
  EXPECT_THAT(model.parameter_names(),
              ElementsAre("layers.0.weight (8,15)", "layers.0.recurrent_weight (5,15)", "layers.0.bias (15)",
                          "layers.0.recurrent_bias (5)", "layers.1.forward.weight (5,4)",
                          "layers.1.forward.recurrent_weight (4,4)", "layers.1.forward.bias (4)",
                          "layers.1.backward.weight (5,4)", "layers.1.backward.recurrent_weight (4,4)",
                          "layers.1.backward.bias (4)", "layers.2.weight (8,10)", "layers.2.bias (10)"));
  EXPECT_EQ(output_shape(model, {3, 8, 8, 1}), (Shape{3, 10}));
}

TEST(Sequential, StacksTransformerBlocksOnTokensAndPositions) {
  BuiltModel model(
      "[model]\ntype = 'sequential'\nlayers = [{type = 'embedding', rows = 11, width = 4}, {type = "
      "'positions'}, "
      "{type = 'transformer_block', heads = 2, causal = true, expansion = 3, dropout = 0.1}, "
      "{type = 'attention', heads = 4}, {type = 'mean_positions'}, {type = 'linear', units = 2}]",
      {{5}, DType::kI32, 2});
  EXPECT_THAT(
      model.parameter_names(),
      ElementsAre("layers.0.weight (11,4)", "layers.1.weight (5,4)", "layers.2.attention_norm.gamma (4)",
                  "layers.2.attention_norm.beta (4)", "layers.2.attention.qkv.weight (4,12)",
                  "layers.2.attention.qkv.bias (12)", "layers.2.attention.output.weight (4,4)",
                  "layers.2.attention.output.bias (4)", "layers.2.feedforward_norm.gamma (4)",
                  "layers.2.feedforward_norm.beta (4)", "layers.2.expand.weight (4,12)",
                  "layers.2.expand.bias (12)", "layers.2.contract.weight (12,4)",
                  "layers.2.contract.bias (4)", "layers.3.qkv.weight (4,12)", "layers.3.qkv.bias (12)",
                  "layers.3.output.weight (4,4)", "layers.3.output.bias (4)", "layers.5.weight (4,2)",
                  "layers.5.bias (2)"));
  model.allocate();
  ForwardContext context = forward_context(model.store, false);
  const Tensor indices =
      Tensor::from({2, 5}, std::vector<int32_t>{0, 1, 2, 3, 4, 10, 9, 8, 7, 6}, test_backend());
  EXPECT_EQ(model.module->forward(indices, context).shape(), (Shape{2, 2}));
}

TEST(Sequential, MayGiveOneLogitForTwoClasses) {
  const std::string one = "[model]\ntype = 'sequential'\nlayers = [{type = 'linear', units = 1}]";
  EXPECT_EQ(build_error(one, {{4}, DType::kF32, 2}), "no error");
  EXPECT_THAT(build_error(one, {{4}, DType::kF32, 3}),
              HasSubstr("the last layer gives (1), the data need (3)"));
}

struct BadLayers {
  const char* layers;
  DataShape data;
  const char* message;
};

void PrintTo(const BadLayers& bad, std::ostream* stream) {
  *stream << bad.layers;
}

class Misfit : public testing::TestWithParam<BadLayers> {};

TEST_P(Misfit, IsRefusedNamingTheLayerTheRuleAndTheShapes) {
  const BadLayers& bad = GetParam();
  const std::string toml = std::string("[model]\ntype = 'sequential'\nlayers = [") + bad.layers + "]";
  EXPECT_EQ(build_error(toml, bad.data), std::string("test.toml: ") + bad.message);
}

INSTANTIATE_TEST_SUITE_P(
    Layers, Misfit,
    testing::Values(
        BadLayers{"", kDigits,
                  "model.layers: must list at least one layer: [[model.layers]] type = \"linear\" ..."},
        BadLayers{
            "{type = 'linear', units = 10}", kDigits,
            "model.layers[0].type: linear takes (features) or (T,features), got (8,8,1): put a flatten or "
            "global_average_pool layer before it"},
        BadLayers{"{type = 'flatten'}, {type = 'convolution', channels = 4}", kDigits,
                  "model.layers[1].type: convolution takes images (H,W,C), got (64)"},
        BadLayers{"{type = 'flatten'}, {type = 'max_pool'}", kDigits,
                  "model.layers[1].type: max_pool takes images (H,W,C), got (64)"},
        BadLayers{"{type = 'global_average_pool'}, {type = 'global_average_pool'}", kDigits,
                  "model.layers[1].type: global_average_pool takes images (H,W,C), got (1)"},
        BadLayers{"{type = 'convolution', channels = 4, kernel = 9}", kDigits,
                  "model.layers[0].kernel: a 9x9 window does not fit into (8,8,1) with padding 0"},
        BadLayers{"{type = 'convolution', channels = 4, padding = 3}", kDigits,
                  "model.layers[0].padding: must be less than kernel = 3, got 3"},
        BadLayers{"{type = 'max_pool'}, {type = 'average_pool', kernel = 3, padding = 2}", kDigits,
                  "model.layers[1].padding: must be at most half of kernel = 3, got 2"},
        BadLayers{"{type = 'max_pool', kernel = 8}, {type = 'average_pool'}", kDigits,
                  "model.layers[1].kernel: a 2x2 window does not fit into (1,1,1) with padding 0"},
        BadLayers{"{type = 'residual_block', channels = 4}", kFlatDigits,
                  "model.layers[0].type: residual_block takes images (H,W,C), got (64)"},
        BadLayers{"{type = 'embedding', rows = 5, width = 2}", kFlatDigits,
                  "model.layers[0].type: embedding takes table indices (int32 data), got real numbers (64)"},
        BadLayers{"{type = 'linear', units = 2}", DataShape{{5}, DType::kI32, 2},
                  "model.layers[0].type: linear takes real numbers, got table indices (5): put an embedding "
                  "layer first"},
        BadLayers{"{type = 'linear', units = 3}", kFlatDigits,
                  "model.layers[0].type: the last layer gives (3), the data need (10)"},
        BadLayers{"{type = 'convolution', channels = 10}", kDigits,
                  "model.layers[0].type: the last layer gives (6,6,10), the data need (10)"},
        BadLayers{
            "{type = 'recurrent', units = 10}", kFlatDigits,
            "model.layers[0].type: recurrent takes (T,features), got (64): put an embedding or a reshape "
            "layer before it"},
        BadLayers{"{type = 'recurrent', units = 10, return = 'sequence'}", kDigits,
                  "model.layers[0].type: the last layer gives (8,10), the data need (10)"},
        BadLayers{"{type = 'recurrent', units = 10, recurrent_scale = -1}", kDigits,
                  "model.layers[0].recurrent_scale: must be >= 0, got -1"},
        BadLayers{"{type = 'attention'}", kDigits,
                  "model.layers[0].type: attention takes (T,features), got (8,8,1): put an embedding or a "
                  "reshape layer "
                  "before it"},
        BadLayers{"{type = 'positions'}", kFlatDigits,
                  "model.layers[0].type: positions takes (T,features), got (64): put an embedding or a "
                  "reshape layer "
                  "before it"},
        BadLayers{"{type = 'mean_positions'}", kFlatDigits,
                  "model.layers[0].type: mean_positions takes (T,features), got (64): put an embedding or a "
                  "reshape layer "
                  "before it"},
        BadLayers{"{type = 'reshape', shape = [8, 8]}, {type = 'transformer_block', heads = 3}", kFlatDigits,
                  "model.layers[1].heads: must divide the 8 features, got 3"},
        BadLayers{"{type = 'reshape', shape = [8, 8]}, {type = 'transformer_block', dropout = 1.0}",
                  kFlatDigits, "model.layers[1].dropout: must be < 1, got 1"},
        BadLayers{"{type = 'reshape', shape = [8, 9]}", kFlatDigits,
                  "model.layers[0].shape: (8,9) has 72 elements, the input (64) has 64"},
        BadLayers{"{type = 'reshape', shape = []}", DataShape{{1}, DType::kF32, 2},
                  "model.layers[0].shape: must have 1 to 3 axes, got 0"},
        BadLayers{"{type = 'reshape', shape = [8, 2, 2, 2]}", kFlatDigits,
                  "model.layers[0].shape: must have 1 to 3 axes, got 4"},
        BadLayers{"{type = 'dropout', probability = 1.0}", kFlatDigits,
                  "model.layers[0].probability: must be < 1, got 1"}));

TEST(Configuration, RefusesUnknownTypesAndKeysOfLayers) {
  const std::string head = "[model]\ntype = 'sequential'\nlayers = [";
  EXPECT_THAT(build_error(head + "{type = 'liner', units = 10}]", kFlatDigits),
              HasSubstr("model.layers[0].type"));
  EXPECT_THAT(build_error(head + "{units = 10}]", kFlatDigits),
              HasSubstr("model.layers[0].type: is required"));
  EXPECT_THAT(build_error(head + "{type = 'linear', units = 10, unit = 3}]", kFlatDigits),
              HasSubstr("model.layers[0].unit: unknown key"));
  EXPECT_THAT(build_error(head + "{type = 'linear'}]", kFlatDigits),
              HasSubstr("model.layers[0].units: is required"));
  EXPECT_THAT(build_error(head + "{type = 'linear', units = 0}]", kFlatDigits),
              HasSubstr("model.layers[0].units"));
  EXPECT_THAT(build_error(head + "{type = 'linear', units = 999999999999}]", kFlatDigits),
              HasSubstr("model.layers[0].units"));
  EXPECT_THAT(build_error(head + "{type = 'convolution', channels = 2, stride = 0}]", kDigits),
              HasSubstr("model.layers[0].stride"));
  EXPECT_THAT(build_error(head + "{type = 'convolution', channels = 2, padding = -1}]", kDigits),
              HasSubstr("model.layers[0].padding"));
}

TEST(Configuration, RefusesUnknownModelsActivationsAndInitializations) {
  EXPECT_THAT(build_error("[model]\ntype = 'transformer'", kDigits), HasSubstr("\"mlp\""));
  EXPECT_THAT(build_error("[model]\nhidden = [3]", kDigits), HasSubstr("model.type: is required"));
  EXPECT_THAT(build_error("[model]\ntype = 'mlp'\nactivation = 'swish'", kDigits), HasSubstr("\"gelu\""));
  EXPECT_THAT(build_error("[model]\ntype = 'mlp'\ninitialization = 'zeros'", kDigits),
              HasSubstr("\"xavier_normal\""));
  EXPECT_THAT(build_error("[model]\ntype = 'mlp'\ndropout = 1.0", kDigits),
              HasSubstr("model.dropout: must be < 1"));
  EXPECT_THAT(build_error("[model]\ntype = 'mlp'\nhidden = [3, 0]", kDigits), HasSubstr("model.hidden"));
}

TEST(Configuration, RefusesTableIndicesInModelsOfRealNumbers) {
  for (const std::string type : {"logistic", "mlp", "cnn"}) {
    EXPECT_THAT(build_error("[model]\ntype = '" + type + "'", {{5}, DType::kI32, 2}),
                HasSubstr("model.type: takes real numbers, the data are table indices (int32)"));
  }
}

TEST(Configuration, DescribesTheKeysOfEveryModelAndLayer) {
  Configuration configuration = Configuration::for_description();
  Section section = configuration.section("model");
  describe_models(section);
  std::vector<std::string> names;
  for (const KeyDescription& key : configuration.keys()) names.push_back(key.of_type + "." + key.key);
  for (const char* key : {".type", "mlp.hidden", "cnn.strides", "recurrent.cell", "attention.heads",
                          "linear.units", "convolution.kernel", "max_pool.kernel"}) {
    EXPECT_THAT(names, ::testing::Contains(key));
  }
  // The linear layer that the description of a sequential model is built with is no key of all layers.
  EXPECT_THAT(names, ::testing::Not(::testing::Contains(".units")));
  std::string text;
  for (const KeyDescription& key : configuration.keys()) text += "\n  " + key.key + " ";
  for (const char* key :
       {"hidden", "channels", "strides", "blocks", "dropout", "initialization", "units", "kernel", "padding",
        "rows", "width", "probability", "function", "epsilon", "momentum"}) {
    EXPECT_THAT(text, HasSubstr(std::string("\n  ") + key + " "));
  }
}

// A program's own model.
class Scaled final : public Module {
 public:
  explicit Scaled(const ModuleBuilder& builder)
      : weight_(builder.parameter("weight", {2, 1}, {Initializer::Kind::kOnes})) {}
  Tensor forward(const Tensor& x, ForwardContext& context) const override {
    return matmul(x, context.parameter(weight_));
  }

 private:
  int weight_;
};

TEST(RegisterModel, MakesAProgramsOwnModelConfigurable) {
  const auto make = [](Section&, const DataShape&, const ModuleBuilder& builder) {
    return std::make_unique<Scaled>(builder);
  };
  register_model("scaled", make);
  EXPECT_THAT(model_types(), ElementsAre("logistic", "mlp", "cnn", "gpt", "sequential", "scaled"));
  BuiltModel model("[model]\ntype = 'scaled'", {{2}, DType::kF32, 0, 1});
  model.allocate();
  ForwardContext context = forward_context(model.store, false);
  const Tensor x = Tensor::from({1, 2}, std::vector<double>{3.0, 4.0}, test_backend());
  EXPECT_EQ(model.module->forward(x, context).item(), 7.0);
  EXPECT_THROW(register_model("scaled", make), Error);
  EXPECT_THROW(register_model("mlp", make), Error);
}

// Products of an evaluation in 16 bits take one copy of each weight, however many chunks there are.
TEST(Models, EvaluationConvertsEachWeightOnce) {
  BuiltModel model("[model]\ntype = \"mlp\"\nhidden = [256, 256]\n", kFlatDigits);
  model.allocate(DType::kF32);
  const Tensor x = Tensor::from({8, 64}, uniform_values(8 * 64, 3), test_backend()).converted(DType::kF32);
  const RecordingScope off(false);
  ForwardContext context = forward_context(model.store, false), views = context;
  for (Tensor& parameter : views.parameters) parameter = parameter.detach();
  int64_t weights = 0;
  for (const ParameterEntry& entry : model.store.parameters()) {
    if (entry.shape.rank() == 2) weights += entry.shape.elements();
  }
  for (const DType compute : {DType::kBF16, DType::kF16}) {
    const AutocastScope scope(compute);
    const std::vector<float> expected = model.module->forward(x, views).to_vector<float>();
    const auto chunk = [&] {
      const size_t before = allocator_statistics().bytes_in_use;
      EXPECT_EQ(model.module->forward(x, context).to_vector<float>(), expected);
      return allocator_statistics().bytes_in_use - before;
    };
    EXPECT_GE(chunk(), static_cast<size_t>(weights) * 2) << "the copies, for the chunks to come";
    reset_allocator_peak();
    const size_t before = allocator_statistics().bytes_in_use;
    EXPECT_EQ(chunk(), 0u);
    EXPECT_LT(allocator_statistics().peak_bytes, before + size_t{2} * 256 * 256)
        << "a weight was copied again";
  }
}

}  // namespace
}  // namespace lockstep
