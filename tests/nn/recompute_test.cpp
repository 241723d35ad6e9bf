// Models whose activations are recomputed: the same gradients and statistics to the bit, less memory.
#include <gtest/gtest.h>

#include "device.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/ops/loss.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

struct Swept {
  std::vector<float> loss;
  std::vector<std::vector<float>> gradients;
  std::vector<int> order;
  std::vector<std::vector<float>> statistics;
  size_t activation_bytes = 0;
  bool operator==(const Swept& other) const {
    return loss == other.loss && gradients == other.gradients && order == other.order &&
           statistics == other.statistics;
  }
};

// One micro-batch through the model, as the trainer does it.
Swept sweep(const BuiltModel& model, const Shape& sample, int64_t batch, int64_t recompute_every,
            bool cheap = false) {
  Shape shape{batch};
  for (int64_t extent : sample.extents()) shape.push_back(extent);
  const std::vector<double> values = uniform_values(shape.elements(), 5);
  const Tensor x = Tensor::from(shape, std::vector<float>(values.begin(), values.end()), test_backend());
  std::vector<int32_t> labels(static_cast<size_t>(batch));
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int32_t>(i % 10);

  Swept result;
  result.gradients.resize(model.store.parameters().size());
  ForwardContext context = forward_context(model.store, true);
  context.recompute_every = recompute_every;
  const RandomScope random(5, 6, 7);
  const LeaveCheapScope leave(cheap);
  const size_t before = allocator_statistics().bytes_in_use;
  reset_allocator_peak();
  const Tensor losses =
      cross_entropy(model.module->forward(x, context), Tensor::from({batch}, labels, test_backend()));
  for (const Tensor& statistic : context.batch_statistics)
    result.statistics.push_back(statistic.to_vector<float>());
  result.loss = losses.to_vector<float>();
  backward(losses, losses.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
    result.order.push_back(leaf.index);
    result.gradients[static_cast<size_t>(leaf.index)] = gradient.to_vector<float>();
  });
  result.activation_bytes = allocator_statistics().peak_bytes - before;
  return result;
}

struct RecomputedCase {
  const char* name;
  const char* toml;
};

class RecomputedModel : public testing::TestWithParam<RecomputedCase> {};

TEST_P(RecomputedModel, HasTheGradientsOfThePlainRunToTheBit) {
  BuiltModel model(GetParam().toml, kDigits);
  model.allocate(DType::kF32);
  const Swept plain = sweep(model, kDigits.sample, 6, 0);
  ASSERT_EQ(plain.order.size(), model.store.parameters().size());
  for (int64_t k : {1, 2, 3, 4, 7, 100})
    EXPECT_TRUE(sweep(model, kDigits.sample, 6, k) == plain) << "every " << k;
  const Swept cheap = sweep(model, kDigits.sample, 6, 0, true);
  EXPECT_TRUE(cheap == plain);
  EXPECT_LE(cheap.activation_bytes, plain.activation_bytes);
}

INSTANTIATE_TEST_SUITE_P(
    Models, RecomputedModel,
    testing::Values(
        RecomputedCase{"Mlp", "[model]\ntype = 'mlp'\nhidden = [30, 30, 20, 20, 10]\nactivation = 'gelu'"},
        RecomputedCase{"MlpWithDropout", "[model]\ntype = 'mlp'\nhidden = [30, 20, 20]\ndropout = 0.3"},
        RecomputedCase{
            "CnnWithBatchNormAndDropout",
            "[model]\ntype = 'cnn'\nchannels = [4, 6]\nstrides = [1, 2]\nblocks = 2\ndropout = 0.2"},
        RecomputedCase{
            "Sequential",
            "[model]\ntype = 'sequential'\nlayers = [{type = 'convolution', channels = 3, padding = 1},"
            "{type = 'batch_norm'}, {type = 'activation', function = 'tanh'}, {type = 'max_pool'},"
            "{type = 'dropout', probability = 0.3}, {type = 'residual_block', channels = 4},"
            "{type = 'flatten'}, {type = 'layer_norm'}, {type = 'linear', units = 10}]"},
        RecomputedCase{
            "TransformerWithDropout",
            "[model]\ntype = 'sequential'\nlayers = [{type = 'reshape', shape = [8, 8]}, {type = "
            "'positions'},"
            "{type = 'transformer_block', heads = 2, dropout = 0.3},"
            "{type = 'transformer_block', heads = 4, causal = true, activation = 'gelu_tanh'}, {type = "
            "'transformer_block', expansion "
            "= 2},"
            "{type = 'mean_positions'}, {type = 'linear', units = 10}]"}),
    [](const auto& variant) { return std::string(variant.param.name); });

// A deep MLP whose activations outweigh everything else a sweep allocates.
TEST(RecomputedModel, NeedsTheLeastMemoryNearTheSquareRootOfItsDepth) {
  std::string widths;
  for (int i = 0; i < 64; ++i) widths += i == 0 ? "16" : ", 16";
  BuiltModel model("[model]\ntype = 'mlp'\nhidden = [" + widths + "]", kFlatDigits);
  model.allocate(DType::kF32);
  const auto peak = [&](int64_t k) { return sweep(model, kFlatDigits.sample, 1024, k).activation_bytes; };
  const size_t all = peak(0), best = peak(8);
  EXPECT_GT(all, 64u * 16 * 1024 * sizeof(float));
  EXPECT_LT(best, all / 2);
  EXPECT_LT(best, peak(2));
  EXPECT_LT(best, peak(32));
}

}  // namespace
}  // namespace lockstep
