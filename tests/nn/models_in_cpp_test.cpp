// Models and layers that a program makes of options are those that a configuration describes; a program's own
// layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <utility>

#include "device.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/nn/attention.h"
#include "lockstep/nn/batch_norm.h"
#include "lockstep/nn/cnn.h"
#include "lockstep/nn/convolution.h"
#include "lockstep/nn/dropout.h"
#include "lockstep/nn/embedding.h"
#include "lockstep/nn/layer_norm.h"
#include "lockstep/nn/linear.h"
#include "lockstep/nn/logistic.h"
#include "lockstep/nn/mlp.h"
#include "lockstep/nn/pooling.h"
#include "lockstep/nn/positions.h"
#include "lockstep/nn/recurrent.h"
#include "lockstep/nn/reshape.h"
#include "lockstep/nn/residual_block.h"
#include "lockstep/nn/sequential.h"
#include "lockstep/nn/transformer_block.h"
#include "lockstep/ops/elementwise.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

// The values of all parameters, name by name.
std::vector<std::pair<std::string, std::vector<double>>> initial_parameters(const ParameterStore& store) {
  std::vector<std::pair<std::string, std::vector<double>>> values;
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    values.emplace_back(store.parameters()[i].name, store.parameter(static_cast<int>(i)).to_vector<double>());
  }
  return values;
}

using MakeModel = std::function<std::unique_ptr<Module>(const ModuleBuilder& builder)>;

// The same parameters and the same outputs, in training and in evaluation.
void expect_same_model(const std::string& toml, const DataShape& data, const MakeModel& make) {
  BuiltModel read(toml, data);
  read.allocate();
  ParameterStore store;
  const std::unique_ptr<Module> made = make(ModuleBuilder(store));
  store.allocate(DType::kF64, test_backend(), 7);
  EXPECT_EQ(initial_parameters(store), initial_parameters(read.store)) << toml;
  Shape shape{3};
  for (const int64_t extent : data.sample.extents()) shape.push_back(extent);
  const Tensor x = data.input == DType::kI32
                       ? Tensor::from(shape, std::vector<int32_t>(static_cast<size_t>(shape.elements()), 1),
                                      test_backend())
                       : Tensor::from(shape, uniform_values(shape.elements(), 5), test_backend());
  for (const bool training : {false, true}) {
    std::vector<std::vector<double>> outputs;
    for (const auto& [module, of] :
         {std::pair<const Module*, const ParameterStore*>{read.module.get(), &read.store},
          {made.get(), &store}}) {
      const RandomScope random(1, 2, 3);
      ForwardContext context = forward_context(*of, training);
      outputs.push_back(module->forward(x, context).to_vector<double>());
    }
    EXPECT_EQ(outputs[0], outputs[1]) << toml;
  }
}

TEST(ModelsInCpp, AreThoseOfAConfiguration) {
  expect_same_model("[model]\ntype = 'mlp'", kDigits,
                    [](const ModuleBuilder& builder) { return make_mlp({}, kDigits, builder); });
  expect_same_model(
      "[model]\ntype = 'mlp'\nhidden = [9, 5]\nactivation = 'tanh'\ndropout = 0.25\n"
      "initialization = 'xavier_normal'",
      kDigits, [](const ModuleBuilder& builder) {
        return make_mlp({.hidden = {9, 5},
                         .activation = ActivationFunction::kTanh,
                         .dropout = 0.25,
                         .initialization = Initializer::Kind::kXavierNormal},
                        kDigits, builder);
      });
  expect_same_model("[model]\ntype = 'cnn'", kDigits,
                    [](const ModuleBuilder& builder) { return make_cnn({}, kDigits, builder); });
  expect_same_model("[model]\ntype = 'cnn'\nchannels = [4]\nstrides = [2]\nblocks = 2\nbatch_norm = false",
                    kDigits, [](const ModuleBuilder& builder) {
                      return make_cnn({.channels = {4}, .strides = {2}, .blocks = 2, .batch_norm = false},
                                      kDigits, builder);
                    });
  expect_same_model("[model]\ntype = 'logistic'", kDigits,
                    [](const ModuleBuilder& builder) { return make_logistic(kDigits, builder); });
}

// Every layer, with its defaults and with what its keys can say.
TEST(ModelsInCpp, ListLayersAsAConfigurationDoes) {
  const auto sequential = [](const std::string& layers, const DataShape& data,
                             const std::vector<LayerSpec>& specs) {
    expect_same_model("[model]\ntype = 'sequential'\n" + layers, data,
                      [&](const ModuleBuilder& builder) { return make_sequential(specs, data, builder); });
  };
  const auto layer = [](const std::string& keys) { return "[[model.layers]]\n" + keys + "\n"; };
  const std::string last = layer("type = 'flatten'") + layer("type = 'linear'\nunits = 10");
  const DataShape images{{8, 8, 2}, DType::kF32, 10}, tokens{{8}, DType::kI32, 10};
  const auto of_images = [&](const std::string& keys, const LayerSpec& spec) {
    sequential(layer(keys) + last, images, {spec, flatten_layer(), linear_layer(10)});
  };
  const auto of_tokens = [&](const std::string& keys, const LayerSpec& spec) {
    sequential(layer("type = 'embedding'\nrows = 5\nwidth = 6") + layer(keys) + last, tokens,
               {embedding_layer(5, 6), spec, flatten_layer(), linear_layer(10)});
  };
  of_images("type = 'activation'\nfunction = 'softplus'", activation_layer(ActivationFunction::kSoftplus));
  of_images("type = 'convolution'\nchannels = 3", convolution_layer(3));
  of_images(
      "type = 'convolution'\nchannels = 3\nkernel = 5\nstride = 2\npadding = 2\nbias = false\n"
      "activation = 'relu'\ninitialization = 'he_uniform'",
      convolution_layer(3, {.kernel = 5,
                            .stride = 2,
                            .padding = 2,
                            .activation = ActivationFunction::kRelu,
                            .initialization = Initializer::Kind::kHeUniform,
                            .bias = false}));
  of_images("type = 'max_pool'", max_pool_layer());
  of_images("type = 'max_pool'\nkernel = 3\nstride = 1\npadding = 1",
            max_pool_layer({.kernel = 3, .stride = 1, .padding = 1}));
  of_images("type = 'average_pool'", average_pool_layer());
  of_images("type = 'global_average_pool'", global_average_pool_layer());
  of_images("type = 'batch_norm'", batch_norm_layer());
  of_images("type = 'batch_norm'\nmomentum = 0.5\nepsilon = 0.1",
            batch_norm_layer({.momentum = 0.5, .epsilon = 0.1}));
  of_images("type = 'dropout'", dropout_layer());
  of_images("type = 'dropout'\nprobability = 0.2", dropout_layer(0.2));
  of_images("type = 'reshape'\nshape = [16, 8]", reshape_layer({16, 8}));
  of_images("type = 'residual_block'\nchannels = 4", residual_block_layer(4));
  of_images(
      "type = 'residual_block'\nchannels = 2\nstride = 2\nbatch_norm = false\nactivation = 'tanh'",
      residual_block_layer(2, {.stride = 2, .batch_norm = false, .activation = ActivationFunction::kTanh}));
  of_tokens("type = 'layer_norm'", layer_norm_layer());
  of_tokens("type = 'layer_norm'\nepsilon = 0.5", layer_norm_layer({.epsilon = 0.5}));
  of_tokens("type = 'linear'\nunits = 3\nactivation = 'gelu'\nbias = false",
            linear_layer(3, {.activation = ActivationFunction::kGelu, .bias = false}));
  of_tokens("type = 'recurrent'\nunits = 3", recurrent_layer(3));
  of_tokens(
      "type = 'recurrent'\nunits = 3\ncell = 'gru'\ndirection = 'both'\nreturn = 'sequence'\n"
      "recurrent_scale = 0.5",
      recurrent_layer(3, {.cell = RecurrentCell::kGru,
                          .direction = Direction::kBoth,
                          .sequence = true,
                          .recurrent_scale = 0.5}));
  of_tokens("type = 'attention'", attention_layer());
  of_tokens("type = 'attention'\nheads = 2\ncausal = true", attention_layer({.heads = 2, .causal = true}));
  of_tokens("type = 'positions'", positions_layer());
  of_tokens("type = 'mean_positions'", mean_positions_layer());
  of_tokens("type = 'transformer_block'", transformer_block_layer());
  of_tokens("type = 'transformer_block'\nheads = 3\nexpansion = 2\nactivation = 'relu'\ndropout = 0.1",
            transformer_block_layer({.attention = {.heads = 3},
                                     .expansion = 2,
                                     .activation = ActivationFunction::kRelu,
                                     .dropout = 0.1}));
}

// The message of the Error (kUsage) that making the model throws.
std::string refusal(const MakeModel& make) {
  ParameterStore store;
  try {
    make(ModuleBuilder(store));
  } catch (const Error& error) {
    return error.kind() == ErrorKind::kUsage ? error.what() : std::string("wrong kind: ") + error.what();
  }
  return "no error";
}

TEST(ModelsInCpp, RefuseWhatDoesNotFitByName) {
  const auto layers = [](const std::vector<LayerSpec>& specs, const DataShape& data = kDigits) {
    return refusal([&](const ModuleBuilder& builder) { return make_sequential(specs, data, builder); });
  };
  EXPECT_EQ(layers({flatten_layer(), linear_layer(0)}),
            "layers.1: linear: units: must be in [1, 1048576], got 0");
  EXPECT_THAT(layers({linear_layer(10)}), HasSubstr("layers.0: linear: type: linear takes (features)"));
  EXPECT_EQ(layers({convolution_layer(3, {.kernel = 3, .padding = 3})}),
            "layers.0: convolution: padding: must be less than kernel = 3, got 3");
  EXPECT_THAT(layers({convolution_layer(3, {.kernel = 9})}), HasSubstr("a 9x9 window does not fit"));
  EXPECT_THAT(layers({dropout_layer(1.0)}), HasSubstr("dropout: probability: must be < 1, got 1"));
  EXPECT_THAT(layers({batch_norm_layer({.epsilon = 0.0})}),
              HasSubstr("batch_norm: epsilon: must be > 0, got 0"));
  EXPECT_THAT(layers({reshape_layer({})}), HasSubstr("reshape: shape: must have 1 to 3 axes, got 0"));
  EXPECT_THAT(layers({reshape_layer({8, 8}), attention_layer({.heads = 3})}),
              HasSubstr("layers.1: attention: heads: must divide the 8 features, got 3"));
  EXPECT_THAT(layers({reshape_layer({8, 8}), transformer_block_layer({.expansion = 0})}),
              HasSubstr("layers.1: transformer_block: expansion: must be in [1, 1024], got 0"));
  EXPECT_THAT(layers({flatten_layer()}, {{8}, DType::kI32, 10}),
              HasSubstr("layers.0: flatten: type: flatten takes real numbers, got table indices (8)"));
  EXPECT_THAT(layers({embedding_layer(5, 5)}),
              HasSubstr("embedding takes table indices (int32 data), got real numbers (8,8,1)"));
  EXPECT_EQ(layers({flatten_layer(), linear_layer(9)}),
            "sequential: layers: the last layer gives (9), the data need (10)");
  EXPECT_THAT(layers({}), HasSubstr("must list at least one layer"));
  const auto mlp = [](const MlpOptions& options, const DataShape& data = kDigits) {
    return refusal([&](const ModuleBuilder& builder) { return make_mlp(options, data, builder); });
  };
  EXPECT_EQ(mlp({.hidden = {3, 0}}), "mlp: hidden: must be in [1, 1048576], got 0");
  EXPECT_EQ(mlp({.dropout = std::numeric_limits<double>::quiet_NaN()}),
            "mlp: dropout: must be in [0, 1], got nan");
  EXPECT_THAT(mlp({}, {{8}, DType::kI32, 10}), HasSubstr("mlp: type: takes real numbers"));
  const auto cnn = [](const CnnOptions& options, const DataShape& data = kDigits) {
    return refusal([&](const ModuleBuilder& builder) { return make_cnn(options, data, builder); });
  };
  EXPECT_THAT(cnn({.channels = {3}}),
              HasSubstr("cnn: strides: must give one stride for each of the 1 stages"));
  EXPECT_THAT(cnn({}, kFlatDigits), HasSubstr("data must be (H,W,C), got samples of shape (64)"));
}

class Doubled final : public Module {
 public:
  explicit Doubled(double times) : times_(times) {}
  Tensor forward(const Tensor& x, ForwardContext&) const override { return scale(x, times_); }

 private:
  double times_;
};

TEST(RegisterLayer, MakesAProgramsOwnLayerConfigurable) {
  register_layer("doubled", [](Section& keys) -> LayerSpec {
    const int64_t times = keys.integer("times", 2, kAny, "doubled: factor");
    return {"doubled", [times](const Shape& input, const ModuleBuilder&) -> Layer {
              require_option("doubled", "times", static_cast<double>(times), {0.0, 4.0});
              return {std::make_unique<Doubled>(static_cast<double>(times)), input};
            }};
  });
  const std::string toml = "[model]\ntype = 'sequential'\n[[model.layers]]\ntype = 'doubled'\ntimes = ";
  const DataShape data{{2}, DType::kF32, 0, 2};
  BuiltModel model(toml + "3", data);
  model.allocate();
  ForwardContext context = forward_context(model.store, false);
  const Tensor x = Tensor::from({1, 2}, std::vector<double>{3.0, 4.0}, test_backend());
  EXPECT_EQ(model.module->forward(x, context).to_vector<double>(), (std::vector<double>{9.0, 12.0}));
  EXPECT_THAT(build_error(toml + "5", data), HasSubstr("model.layers[0].times: must be in [0, 4], got 5"));
  EXPECT_THAT(build_error(toml + "3\nother = 1", data), HasSubstr("model.layers[0].other: unknown key"));
  EXPECT_THROW(register_layer("doubled", [](Section&) { return flatten_layer(); }), Error);
  EXPECT_THROW(register_layer("linear", [](Section&) { return flatten_layer(); }), Error);
}

}  // namespace
}  // namespace lockstep
