// Gradients of whole models, end to end in fp64, against central differences.
#include <gtest/gtest.h>

#include <cmath>

#include "device.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/reduction.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

struct Case {
  const char* name;
  const char* toml;
  DataShape data;
};

constexpr int64_t kSamples = 4;

class ModelGradient : public testing::TestWithParam<Case> {
 protected:
  Tensor input(const DataShape& data) const {
    Shape shape{kSamples};
    for (int64_t extent : data.sample.extents()) shape.push_back(extent);
    if (data.input == DType::kI32) {
      std::vector<int32_t> indices(static_cast<size_t>(shape.elements()));
      for (size_t i = 0; i < indices.size(); ++i) indices[i] = static_cast<int32_t>(i * i % 5);
      return Tensor::from(shape, indices, test_backend());
    }
    return Tensor::from(shape, uniform_values(shape.elements(), 11), test_backend());
  }

  // The loss that suits the model's output, summed over the batch; dropout draws the same every time.
  Tensor loss(const BuiltModel& model, const DataShape& data, const Tensor& x,
              ForwardContext& context) const {
    RandomScope random(3, 1, 0);
    const Tensor y = model.module->forward(x, context);
    if (data.classes == 0) {
      return sum(
          mean_squared_error(y, Tensor::from(y.shape(), uniform_values(y.elements(), 5), test_backend())));
    }
    if (y.shape().last() == 1) {
      return sum(logistic_loss(y, Tensor::from(y.shape(), std::vector<double>{1, 0, 0, 1}, test_backend())));
    }
    return sum(cross_entropy(y, Tensor::from({kSamples}, std::vector<int32_t>{0, 2, 1, 0}, test_backend())));
  }
};

TEST_P(ModelGradient, AgreesWithCentralDifferencesInEveryParameter) {
  const DataShape& data = GetParam().data;
  BuiltModel model(GetParam().toml, data);
  model.allocate(DType::kF64, 21);
  Tensor values = model.store.values();
  // Away from zero, where biases and logistic weights start and where symmetric mistakes cancel.
  const std::vector<double> shift = uniform_values(values.elements(), 17);
  auto parameters = values.to_vector<double>();
  for (size_t p = 0; p < model.store.parameters().size(); ++p) {
    const ParameterEntry& entry = model.store.parameters()[p];
    for (int64_t i = entry.offset; i < entry.offset + entry.shape.elements(); ++i) {
      parameters[static_cast<size_t>(i)] += 0.2 * shift[static_cast<size_t>(i)];
    }
  }
  values.assign(Tensor::from(values.shape(), parameters, test_backend()));
  const Tensor x = input(data);

  ForwardContext context = forward_context(model.store, true);
  const Tensor value = loss(model, data, x, context);
  std::vector<Tensor> gradient(model.store.parameters().size());
  backward(value, value.full_like(1.0), [&](const Leaf& leaf, Tensor derivative) {
    gradient[static_cast<size_t>(leaf.index)] = std::move(derivative);
  });

  RecordingScope off(false);
  const auto loss_at = [&](int64_t i, double shifted) {
    Tensor element = values.view({}, i);
    const Tensor kept = element.clone();
    element.assign(element.full_like(shifted));
    ForwardContext fresh = forward_context(model.store, true);
    const double result = loss(model, data, x, fresh).item();
    element.assign(kept);
    return result;
  };
  constexpr double kStep = 1e-5;
  for (size_t p = 0; p < gradient.size(); ++p) {
    const ParameterEntry& entry = model.store.parameters()[p];
    ASSERT_TRUE(gradient[p].defined()) << entry.name << " received no gradient";
    ASSERT_EQ(gradient[p].shape(), entry.shape);
    const auto derivatives = gradient[p].to_vector<double>();
    for (int64_t i = 0; i < entry.shape.elements(); ++i) {
      const int64_t at = entry.offset + i;
      const double here = parameters[static_cast<size_t>(at)];
      const double expected = (loss_at(at, here + kStep) - loss_at(at, here - kStep)) / (2.0 * kStep);
      EXPECT_NEAR(derivatives[static_cast<size_t>(i)], expected, 1e-7 * std::max(1.0, std::abs(expected)))
          << entry.name << "[" << i << "]";
    }
  }
}

// Smooth activations where possible: a central difference across a kink of relu measures nothing.
INSTANTIATE_TEST_SUITE_P(
    Models, ModelGradient,
    testing::Values(
        Case{"LogisticBinary", "[model]\ntype = 'logistic'", {{6}, DType::kF32, 2}},
        Case{"LogisticSoftmax", "[model]\ntype = 'logistic'", {{2, 3, 1}, DType::kF32, 3}},
        Case{"MlpGelu", "[model]\ntype = 'mlp'\nhidden = [5, 4]\nactivation = 'gelu'", {{6}, DType::kF32, 3}},
        Case{"MlpGeluTanh",
             "[model]\ntype = 'mlp'\nhidden = [5, 4]\nactivation = 'gelu_tanh'",
             {{6}, DType::kF32, 3}},
        Case{"MlpRelu", "[model]\ntype = 'mlp'\nhidden = [5]", {{6}, DType::kF32, 3}},
        Case{"MlpTanhDropout",
             "[model]\ntype = 'mlp'\nhidden = [8]\nactivation = 'tanh'\ndropout = 0.4",
             {{6}, DType::kF32, 3}},
        Case{"MlpRegression",
             "[model]\ntype = 'mlp'\nhidden = [5]\nactivation = 'sigmoid'",
             {{6}, DType::kF32, 0, 2}},
        Case{"CnnBatchNormDropout",
             "[model]\ntype = 'cnn'\nchannels = [2, 3]\nstrides = [1, 2]\nactivation = 'softplus'\ndropout = "
             "0.3",
             {{5, 4, 2}, DType::kF32, 3}},
        Case{"LstmOverEmbedding",
             "[model]\ntype = 'sequential'\nlayers = [{type = 'embedding', rows = 5, width = 3}, {type = "
             "'recurrent', units = 3, return = 'sequence'}, {type = 'dropout', probability = 0.3}, "
             "{type = 'recurrent', cell = 'gru', units = 2, direction = 'both'}, {type = 'linear', units = "
             "3}]",
             {{4}, DType::kI32, 3}},
        Case{"RnnOverReshapedRowsBackward",
             "[model]\ntype = 'sequential'\nlayers = [{type = 'reshape', shape = [4, 2]}, {type = "
             "'recurrent', cell = 'rnn_tanh', units = 3, direction = 'backward', return = 'sequence'}, "
             "{type = 'flatten'}, {type = 'linear', units = 1}]",
             {{8}, DType::kF32, 2}},
        Case{"CausalTransformerOverEmbedding",
             "[model]\ntype = 'sequential'\nlayers = [{type = 'embedding', rows = 5, width = 4}, {type = "
             "'positions'}, "
             "{type = 'transformer_block', heads = 2, causal = true, expansion = 2, dropout = 0.3}, "
             "{type = 'layer_norm'}, {type = 'mean_positions'}, {type = 'linear', units = 3}]",
             {{4}, DType::kI32, 3}},
        Case{"AttentionOverRows",
             "[model]\ntype = 'sequential'\nlayers = [{type = 'attention', heads = 3}, {type = 'flatten'}, "
             "{type = 'linear', units = 3}]",
             {{4, 3}, DType::kF32, 3}},
        Case{"CnnReluWithoutNorm",
             "[model]\ntype = 'cnn'\nchannels = [2, 3]\nstrides = [2, 1]\nbatch_norm = false",
             {{4, 4, 1}, DType::kF32, 3}},
        Case{"SequentialImage",
             "[model]\ntype = 'sequential'\nlayers = [{type = 'convolution', channels = 3, activation = "
             "'tanh', padding = "
             "1}, {type = 'max_pool'}, {type = 'residual_block', channels = 2, activation = 'gelu'},"
             "{type = 'average_pool', stride = 1}, {type = 'flatten'}, {type = 'layer_norm'},"
             "{type = 'linear', units = 3}]",
             {{6, 6, 1}, DType::kF32, 3}},
        Case{"SequentialTokens",
             "[model]\ntype = 'sequential'\nlayers = [{type = 'embedding', rows = 5, width = 3}, {type = "
             "'linear', units "
             "= 4, activation = 'gelu'}, {type = 'flatten'}, {type = 'batch_norm'}, {type = 'linear', units "
             "= 3}]",
             {{4}, DType::kI32, 3}}),
    [](const auto& variant) { return std::string(variant.param.name); });

}  // namespace
}  // namespace lockstep
