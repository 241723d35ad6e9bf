// Whole models compute what PyTorch computes from the same parameters; goldens/ is written by
// make_goldens.py.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "device.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/reduction.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

class Golden : public testing::TestWithParam<const char*> {};

void expect_near(const std::vector<double>& found, const std::vector<double>& expected,
                 const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], expected[i], 1e-10) << what << "[" << i << "]";
  }
}

TEST_P(Golden, OutputsGradientsAndStatisticsAgreeWithPyTorch) {
  std::ifstream file(std::string(LOCKSTEP_NN_GOLDENS) + "/" + GetParam() + ".json");
  ASSERT_TRUE(file.good());
  const nlohmann::json golden = nlohmann::json::parse(file);
  const auto sample = golden.at("sample").get<std::vector<int64_t>>();
  const auto labels = golden.at("labels").get<std::vector<int32_t>>();
  BuiltModel model(golden.at("toml"), {Shape(sample), DType::kF64, 3});
  model.allocate(DType::kF64);

  // Names pair parameters; the order of declaration is Lockstep's own.
  const auto of_name = [](const nlohmann::json& list, const std::string& name) -> nlohmann::json {
    for (const nlohmann::json& entry : list) {
      if (entry.at("name") == name) return entry;
    }
    return nullptr;
  };
  ASSERT_EQ(model.store.parameters().size(), golden.at("parameters").size());
  ASSERT_EQ(model.store.statistics().size(), golden.at("statistics").size());
  for (size_t i = 0; i < model.store.parameters().size(); ++i) {
    const ParameterEntry& entry = model.store.parameters()[i];
    const nlohmann::json expected = of_name(golden.at("parameters"), entry.name);
    ASSERT_FALSE(expected.is_null()) << entry.name;
    Tensor values = model.store.parameter(static_cast<int>(i));
    values.assign(
        Tensor::from(entry.shape, expected.at("values").get<std::vector<double>>(), test_backend()));
  }

  Shape input{static_cast<int64_t>(labels.size())};
  for (int64_t extent : sample) input.push_back(extent);
  const Tensor x = Tensor::from(input, golden.at("input").get<std::vector<double>>(), test_backend());
  ForwardContext context = forward_context(model.store, true);
  const Tensor y = model.module->forward(x, context);
  expect_near(y.to_vector<double>(), golden.at("training_output"), "training output");

  const Tensor loss =
      sum(cross_entropy(y, Tensor::from({static_cast<int64_t>(labels.size())}, labels, test_backend())));
  backward(loss, loss.full_like(1.0), [&](const Leaf& leaf, const Tensor& gradient) {
    const std::string& name = model.store.parameters()[static_cast<size_t>(leaf.index)].name;
    expect_near(gradient.to_vector<double>(), of_name(golden.at("parameters"), name).at("gradient"), name);
  });

  // The trainer's update of the running statistics, for a step of one micro-batch.
  for (size_t i = 0; i < model.store.statistics().size(); ++i) {
    const StatisticEntry& entry = model.store.statistics()[i];
    std::vector<double> running = model.store.statistic(static_cast<int>(i)).to_vector<double>();
    const std::vector<double> batch = context.batch_statistics[i].to_vector<double>();
    for (size_t c = 0; c < running.size(); ++c) {
      running[c] = (1.0 - entry.momentum) * running[c] + entry.momentum * batch[c];
    }
    expect_near(running, of_name(golden.at("statistics"), entry.name).at("values"), entry.name);
    Tensor values = model.store.statistic(static_cast<int>(i));
    values.assign(Tensor::from(entry.shape, running, test_backend()));
  }
  ForwardContext evaluation = forward_context(model.store, false);
  expect_near(model.module->forward(x, evaluation).to_vector<double>(), golden.at("evaluation_output"),
              "evaluation output");
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Values("mlp", "cnn", "sequential", "rnn_tanh", "rnn_relu", "lstm", "gru",
                                         "transformer", "mlp_gelu_tanh"),
                         [](const auto& variant) { return std::string(variant.param); });

}  // namespace
}  // namespace lockstep
