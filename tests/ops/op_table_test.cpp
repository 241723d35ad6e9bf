// Every row of the op table through every derivative check. A new op adds a row here.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
#include "lockstep/ops/attention.h"
#include "lockstep/ops/class_head.h"
#include "lockstep/ops/convolution.h"
#include "lockstep/ops/dropout.h"
#include "lockstep/ops/elementwise.h"
#include "lockstep/ops/embedding.h"
#include "lockstep/ops/gated.h"
#include "lockstep/ops/loss.h"
#include "lockstep/ops/matmul.h"
#include "lockstep/ops/movement.h"
#include "lockstep/ops/normalization.h"
#include "lockstep/ops/recurrent.h"
#include "lockstep/ops/reduction.h"
#include "lockstep/ops/rotary.h"
#include "ops/derivative_check.h"

namespace lockstep::test {
namespace {

using Inputs = std::span<const Tensor>;

Tensor real(const Shape& shape, uint64_t stream) {
  return random_tensor(shape, -2.0, 2.0, stream);
}
Tensor positive(const Shape& shape, uint64_t stream) {
  return random_tensor(shape, 0.5, 2.0, stream);
}
Tensor int_tensor(const Shape& shape, const std::vector<int32_t>& values) {
  return Tensor::from(shape, values, test_backend());
}

// Weights of samples in the type of the losses of x.
Tensor beside(const Tensor& x, const Tensor& weights) {
  return weights.converted(accumulation_type(x.dtype()));
}

std::vector<OpCase> op_table() {
  std::vector<OpCase> table;
  const auto unary = [&](const std::string& name, Tensor (*op)(const Tensor&), bool only_positive = false) {
    table.push_back({name,
                     [op](Inputs x) { return op(x[0]); },
                     {only_positive ? positive({3, 5}, 11) : real({3, 5}, 11)}});
  };
  unary("negate", negate);
  unary("exp", exp);
  unary("log", log, true);
  unary("sqrt", sqrt, true);
  unary("square", square);
  unary("reciprocal", reciprocal, true);
  unary("abs", abs);
  unary("erf", erf);
  unary("tanh", tanh);
  unary("sigmoid", sigmoid);
  unary("softplus", softplus);
  unary("relu", relu);
  unary("gelu", gelu);
  unary("gelu_tanh", gelu_tanh);
  unary("softmax", softmax);
  unary("log_softmax", log_softmax);
  table.push_back({"log_sum_exp", [](Inputs x) { return log_sum_exp(x[0]); }, {real({3, 5}, 11)}});
  table.push_back({"scale", [](Inputs x) { return scale(x[0], -1.7); }, {real({3, 5}, 11)}});
  table.push_back({"add_scalar", [](Inputs x) { return add_scalar(x[0], 0.3); }, {real({3, 5}, 11)}});

  const std::vector<std::pair<Shape, Shape>> pairs = {
      {{4, 3}, {4, 3}}, {{4, 3}, {3}}, {{2, 4, 3}, {4, 1}}, {{1}, {2, 3}}, {{2, 1, 3}, {4, 1}}};
  for (const auto& [a, b] : pairs) {
    const std::string suffix = "_" + a.to_string() + "_" + b.to_string();
    table.push_back({"add" + suffix, [](Inputs x) { return add(x[0], x[1]); }, {real(a, 21), real(b, 22)}});
    table.push_back(
        {"subtract" + suffix, [](Inputs x) { return subtract(x[0], x[1]); }, {real(a, 21), real(b, 22)}});
    table.push_back(
        {"multiply" + suffix, [](Inputs x) { return multiply(x[0], x[1]); }, {real(a, 21), real(b, 22)}});
    table.push_back(
        {"divide" + suffix, [](Inputs x) { return divide(x[0], x[1]); }, {real(a, 21), positive(b, 22)}});
    table.push_back(
        {"maximum" + suffix, [](Inputs x) { return maximum(x[0], x[1]); }, {real(a, 21), real(b, 22)}});
    table.push_back(
        {"minimum" + suffix, [](Inputs x) { return minimum(x[0], x[1]); }, {real(a, 21), real(b, 22)}});
  }
  table.push_back({"multiply_same", [](Inputs x) { return multiply(x[0], x[0]); }, {real({3}, 23)}});
  table.push_back({"add_same", [](Inputs x) { return add(x[0], x[0]); }, {real({3}, 23)}});

  for (const std::vector<int>& axes : {std::vector<int>{}, {0}, {1}, {2}, {0, 2}, {1, 2}, {-1}}) {
    std::string suffix;
    for (int axis : axes) suffix += "_" + std::to_string(axis);
    table.push_back({"sum" + suffix, [axes](Inputs x) { return sum(x[0], axes); }, {real({2, 3, 4}, 31)}});
    table.push_back(
        {"mean_kept" + suffix, [axes](Inputs x) { return mean(x[0], axes, true); }, {real({2, 3, 4}, 31)}});
  }
  for (int axis : {0, 1, -1}) {
    table.push_back(
        {"max_" + std::to_string(axis), [axis](Inputs x) { return max(x[0], axis); }, {real({2, 3, 4}, 32)}});
  }
  table.push_back({"broadcast_to",
                   [](Inputs x) {
                     return broadcast_to(x[0], {2, 3, 4});
                   },
                   {real({3, 1}, 33)}});
  table.push_back({"sum_to", [](Inputs x) { return sum_to(x[0], {3, 1}); }, {real({2, 3, 4}, 34)}});

  table.push_back({"reshape", [](Inputs x) { return reshape(x[0], {4, -1}); }, {real({2, 6}, 41)}});
  table.push_back({"permute", [](Inputs x) { return permute(x[0], {2, 0, 1}); }, {real({2, 3, 4}, 42)}});
  table.push_back({"transpose", [](Inputs x) { return transpose(x[0]); }, {real({2, 3, 4}, 43)}});
  table.push_back({"slice", [](Inputs x) { return slice(x[0], 1, 1, 3); }, {real({2, 4, 3}, 44)}});
  table.push_back({"pad_axis", [](Inputs x) { return pad_axis(x[0], 1, 1, 5); }, {real({2, 3, 2}, 45)}});
  table.push_back({"concatenate",
                   [](Inputs x) {
                     return concatenate({x[0], x[1], x[0]}, 1);
                   },
                   {real({2, 3}, 46), real({2, 2}, 47)}});

  for (bool ta : {false, true}) {
    for (bool tb : {false, true}) {
      const std::string suffix = std::string(ta ? "_t" : "_n") + (tb ? "t" : "n");
      const Shape a = ta ? Shape{4, 3} : Shape{3, 4}, b = tb ? Shape{5, 4} : Shape{4, 5};
      table.push_back({"matmul" + suffix,
                       [=](Inputs x) { return matmul(x[0], x[1], ta, tb); },
                       {real(a, 51), real(b, 52)}});
      const Shape batch_a = ta ? Shape{2, 4, 3} : Shape{2, 3, 4},
                  batch_b = tb ? Shape{2, 5, 4} : Shape{2, 4, 5};
      table.push_back({"matmul_batched" + suffix,
                       [=](Inputs x) { return matmul(x[0], x[1], ta, tb); },
                       {real(batch_a, 53), real(batch_b, 54)}});
      table.push_back({"matmul_repeat_b" + suffix,
                       [=](Inputs x) { return matmul(x[0], x[1], ta, tb); },
                       {real(batch_a, 53), real(b, 54)}});
      table.push_back({"matmul_repeat_a" + suffix,
                       [=](Inputs x) { return matmul(x[0], x[1], ta, tb); },
                       {real(a, 53), real(batch_b, 54)}});
    }
  }
  for (Activation activation :
       {Activation::kNone, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    table.push_back({"linear_" + std::to_string(static_cast<int>(activation)),
                     [=](Inputs x) { return linear(x[0], x[1], x[2], activation); },
                     {real({2, 3, 4}, 61), real({4, 5}, 62), real({5}, 63)}});
    table.push_back({"linear_transposed_" + std::to_string(static_cast<int>(activation)),
                     [=](Inputs x) { return linear(x[0], x[1], x[2], activation, true); },
                     {real({2, 3, 4}, 61), real({5, 4}, 62), real({5}, 63)}});
  }
  table.push_back({"linear_tied",
                   [](Inputs x) {
                     const Tensor h = embedding(x[0], int_tensor({2, 3}, {1, 0, 1, 3, 1, 0}));
                     return linear(h, x[0], {}, Activation::kNone, true);
                   },
                   {real({4, 5}, 66)}});
  for (Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
    table.push_back(
        {"feed_forward_" + std::to_string(static_cast<int>(activation)),
         [=](Inputs x) { return feed_forward(x[0], x[1], x[2], activation, x[3], x[4]); },
         {real({2, 3, 4}, 61), real({4, 5}, 62), real({5}, 63), real({5, 6}, 64), real({6}, 65)}});
  }
  // Of a width that cuBLASLt takes for its epilogues.
  table.push_back({"feed_forward_of_8",
                   [](Inputs x) { return feed_forward(x[0], x[1], x[2], Activation::kGeluTanh, x[3], x[4]); },
                   {real({3, 4}, 61), real({4, 8}, 62), real({8}, 63), real({8, 2}, 64), real({2}, 65)}});
  table.push_back({"feed_forward_without_bias",
                   [](Inputs x) { return feed_forward(x[0], x[1], {}, Activation::kGelu, x[2], {}); },
                   {real({3, 4}, 61), real({4, 5}, 62), real({5, 2}, 64)}});
  table.push_back({"linear_without_bias",
                   [](Inputs x) { return linear(x[0], x[1], {}); },
                   {real({3, 4}, 61), real({4, 5}, 62)}});

  const Tensor labels = int_tensor({4}, {2, 0, 4, 2});
  const Tensor weights = Tensor::from<double>({4}, std::vector<double>{1.0, 0.5, 0.0, 2.0}, test_backend());
  table.push_back(
      {"cross_entropy", [=](Inputs x) { return cross_entropy(x[0], labels); }, {real({4, 5}, 71)}});
  table.push_back({"cross_entropy_weighted",
                   [=](Inputs x) { return cross_entropy(x[0], labels, beside(x[0], weights)); },
                   {real({4, 5}, 71)}});
  for (const bool capped : {false, true}) {
    const double cap = capped ? 1.5 : 0.0, z_loss = capped ? 0.1 : 0.0;
    table.push_back({capped ? "head_losses_capped" : "head_losses",
                     [=](Inputs x) {
                       return head_losses({x[0], x[1], cap, z_loss}, labels, beside(x[0], weights));
                     },
                     {real({4, 3}, 75), real({5, 3}, 76)}});
  }
  table.push_back({"logistic_loss",
                   [=](Inputs x) { return logistic_loss(x[0], x[1], beside(x[0], weights)); },
                   {real({4}, 72), random_tensor({4}, 0, 1, 73)}});
  table.push_back({"mean_squared_error",
                   [=](Inputs x) { return mean_squared_error(x[0], x[1], beside(x[0], weights)); },
                   {real({4, 3}, 74), real({4, 3}, 75)}});

  for (const auto& [name, kind] : {std::pair("rnn_tanh", RecurrentCell::kTanh),
                                   {"rnn_relu", RecurrentCell::kRelu},
                                   {"lstm", RecurrentCell::kLstm},
                                   {"gru", RecurrentCell::kGru}}) {
    const RecurrentCell cell = kind;  // clang 14 captures no structured bindings
    const int64_t gates = 3 * gates_of(cell);
    for (bool reverse : {false, true}) {
      table.push_back({"recurrent_" + std::string(name) + (reverse ? "_reverse" : ""),
                       [=](Inputs x) { return recurrent(cell, x[0], x[1], {}, reverse); },
                       {real({4, 2, gates}, 64), real({3, gates}, 65)}});
    }
    table.push_back({"recurrent_one_step_" + std::string(name),
                     [=](Inputs x) { return recurrent(cell, x[0], x[1]); },
                     {real({1, 2, gates}, 64), real({3, gates}, 65)}});
  }
  table.push_back({"recurrent_gru_bias",
                   [](Inputs x) { return recurrent(RecurrentCell::kGru, x[0], x[1], x[2]); },
                   {real({3, 2, 6}, 64), real({2, 6}, 65), real({2}, 66)}});

  for (bool causal : {false, true}) {
    const std::string suffix = causal ? "_causal" : "";
    table.push_back({"attention" + suffix,
                     [=](Inputs x) { return attention(x[0], x[1], x[2], 2, causal); },
                     {real({2, 3, 4}, 131), real({2, 3, 4}, 132), real({2, 3, 4}, 133)}});
    table.push_back({"attention_more_keys" + suffix,
                     [=](Inputs x) { return attention(x[0], x[1], x[2], 1, causal); },
                     {real({2, 2, 3}, 134), real({2, 5, 3}, 135), real({2, 5, 3}, 136)}});
    table.push_back({"self_attention" + suffix,
                     [=](Inputs x) { return self_attention(x[0], 2, causal); },
                     {real({2, 4, 12}, 137)}});
  }
  table.push_back({"grouped_attention",
                   [](Inputs x) { return grouped_attention(x[0], x[1], x[2], 4, 2); },
                   {real({2, 3, 8}, 141), real({2, 3, 4}, 142), real({2, 3, 4}, 143)}});
  table.push_back({"grouped_attention_documents",
                   [](Inputs x) {
                     return grouped_attention(x[0], x[1], x[2], 2, 1,
                                              document_first_keys(int_tensor({2, 3}, {0, 0, 1, 0, 1, 1})));
                   },
                   {real({2, 3, 4}, 141), real({2, 3, 2}, 142), real({2, 3, 2}, 143)}});
  table.push_back(
      {"grouped_self_attention_window",
       [](Inputs x) { return grouped_self_attention(x[0], 4, 2, window_first_keys(4, 2, test_backend())); },
       {real({2, 4, 16}, 148)}});
  table.push_back({"grouped_attention_dropout",
                   [](Inputs x) {
                     const RandomScope scope(7, 3, 1);
                     return grouped_attention(x[0], x[1], x[2], 4, 2, {}, 0.4);
                   },
                   {real({2, 3, 8}, 141), real({2, 3, 4}, 142), real({2, 3, 4}, 143)}});
  table.push_back({"grouped_self_attention_dropout",
                   [](Inputs x) {
                     const RandomScope scope(7, 3, 2);
                     return grouped_self_attention(x[0], 2, 2, {}, 0.25);
                   },
                   {real({1, 70, 6}, 148)}});
  table.push_back({"rotary",
                   [](Inputs x) {
                     return rotary(x[0], beside(x[0], random_tensor({3, 2}, -1.0, 1.0, 145)),
                                   beside(x[0], random_tensor({3, 2}, -1.0, 1.0, 146)));
                   },
                   {real({2, 3, 2, 4}, 144)}});
  table.push_back({"rotary_of_some_heads",
                   [](Inputs x) {
                     return rotary(x[0], beside(x[0], random_tensor({3, 2}, -1.0, 1.0, 145)),
                                   beside(x[0], random_tensor({3, 2}, -1.0, 1.0, 146)), 2);
                   },
                   {real({2, 3, 3, 4}, 149)}});
  unary("relu_squared", relu_squared);
  table.push_back({"swiglu", [](Inputs x) { return swiglu(x[0]); }, {real({3, 6}, 147)}});
  table.push_back(
      {"attention_same", [](Inputs x) { return attention(x[0], x[0], x[0], 1); }, {real({1, 3, 2}, 138)}});

  table.push_back({"convolution",
                   [](Inputs x) {
                     return convolution(x[0], x[1], x[2], {1, 1, 1, 1});
                   },
                   {real({2, 4, 5, 3}, 81), real({4, 3, 3, 3}, 82), real({4}, 83)}});
  table.push_back({"convolution_strided",
                   [](Inputs x) {
                     return convolution(x[0], x[1], {}, {2, 1, 0, 1});
                   },
                   {real({2, 5, 4, 2}, 84), real({3, 3, 2, 2}, 85)}});
  table.push_back({"convolution_1x1_stride_2",
                   [](Inputs x) {
                     return convolution(x[0], x[1], {}, {2, 2, 0, 0});
                   },
                   {real({2, 4, 4, 3}, 86), real({2, 1, 1, 3}, 87)}});
  table.push_back({"max_pool",
                   [](Inputs x) {
                     return max_pool(x[0], 2, 2, {2, 2, 0, 0});
                   },
                   {real({2, 4, 4, 3}, 91)}});
  table.push_back({"max_pool_overlapping",
                   [](Inputs x) {
                     return max_pool(x[0], 3, 2, {1, 2, 1, 0});
                   },
                   {real({2, 5, 4, 2}, 92)}});
  table.push_back({"average_pool",
                   [](Inputs x) {
                     return average_pool(x[0], 2, 2, {2, 2, 0, 0});
                   },
                   {real({2, 4, 4, 3}, 93)}});
  table.push_back({"average_pool_padded",
                   [](Inputs x) {
                     return average_pool(x[0], 3, 3, {1, 2, 1, 1});
                   },
                   {real({1, 5, 4, 2}, 94)}});

  // Of a sum, which is read beside its norm: both contribute to its gradient.
  table.push_back({"add_layer_norm",
                   [](Inputs x) {
                     const NormedSum r = add_layer_norm(x[0], x[1], x[2], x[3]);
                     return add(r.sum, multiply(r.y, r.sum));
                   },
                   {real({3, 5}, 131), real({3, 5}, 132), real({5}, 133), real({5}, 134)}});
  table.push_back({"add_rms_norm",
                   [](Inputs x) {
                     const NormedSum r = add_rms_norm(x[0], x[1], x[2]);
                     return add(r.sum, multiply(r.y, r.sum));
                   },
                   {real({3, 5}, 135), real({3, 5}, 136), real({5}, 137)}});
  table.push_back({"layer_norm",
                   [](Inputs x) { return layer_norm(x[0], x[1], x[2]); },
                   {real({2, 3, 6}, 101), real({6}, 102), real({6}, 103)}});
  table.push_back(
      {"rms_norm", [](Inputs x) { return rms_norm(x[0], x[1]); }, {real({2, 3, 6}, 107), real({6}, 108)}});
  table.push_back({"batch_norm",
                   [](Inputs x) { return batch_norm(x[0], x[1], x[2]).y; },
                   {real({3, 2, 2, 4}, 104), real({4}, 105), real({4}, 106)}});
  table.push_back({"batch_norm_inference",
                   [](Inputs x) { return batch_norm_inference(x[0], x[1], x[2], x[3], x[4]); },
                   {real({3, 4}, 104), real({4}, 105), real({4}, 106), real({4}, 107), positive({4}, 108)}});
  table.push_back({"embedding",
                   [](Inputs x) {
                     return embedding(x[0], int_tensor({2, 3}, {1, 0, 1, 3, 1, 0}));
                   },
                   {real({4, 5}, 111)}});
  table.push_back({"dropout",
                   [](Inputs x) {
                     const RandomScope scope(7, 3, 1);
                     return dropout(x[0], 0.4);
                   },
                   {real({5, 7}, 121)}});
  return table;
}

class OpTable : public testing::TestWithParam<OpCase> {};

TEST_P(OpTable, DerivativesAgree) {
  check_derivatives(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Ops, OpTable, testing::ValuesIn(op_table()), [](const auto& row) {
  std::string name = row.param.name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return std::to_string(row.index) + "_" + name;
});

// The op on its inputs, those chosen with history.
Tensor applied(const OpCase& op, const std::vector<bool>& chosen, std::vector<Tensor>& targets) {
  std::vector<Tensor> inputs;
  targets.clear();
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    inputs.push_back(chosen[i] ? variable(op.inputs[i], static_cast<int>(i)) : op.inputs[i]);
    if (chosen[i]) targets.push_back(inputs.back());
  }
  return op.function(inputs);
}

std::vector<std::vector<double>> derivatives_of(const Tensor& y, const std::vector<Tensor>& targets) {
  std::vector<std::vector<double>> result;
  const Tensor u = random_tensor(y.shape(), -1.0, 1.0, 1001);
  for (const Tensor& derivative : gradients(y, u, targets, false)) {
    result.push_back(derivative.to_vector<double>());
  }
  return result;
}

// Every node below y once, in an order that depends on the graph alone.
std::vector<Node*> nodes_below(const Tensor& y) {
  std::vector<Node*> nodes;
  if (y.node() != nullptr) nodes.push_back(y.node().get());
  for (size_t next = 0; next < nodes.size(); ++next) {
    for (const Tensor& input : nodes[next]->inputs) {
      if (input.node() == nullptr || std::ranges::find(nodes, input.node().get()) != nodes.end()) continue;
      nodes.push_back(input.node().get());
    }
  }
  return nodes;
}

// The arrays that a node keeps.
std::vector<Tensor*> kept_by(Node& node) {
  std::vector<Tensor*> kept;
  for (Tensor& input : node.inputs) {
    if (input.has_elements()) kept.push_back(&input);
  }
  if (node.value.has_elements()) kept.push_back(&node.value);
  return kept;
}

// All inputs, and each alone.
std::vector<std::vector<bool>> choices(size_t inputs) {
  std::vector<std::vector<bool>> result = {std::vector<bool>(inputs, true)};
  for (size_t i = 0; i < inputs && inputs > 1; ++i) {
    result.emplace_back(inputs, false);
    result.back()[i] = true;
  }
  return result;
}

TEST(SumOf, ChangesNothingThatAnybodyElseHolds) {
  const auto three = [](double a) {
    return Tensor::from({3}, std::vector<double>{a, a + 1, a + 2}, test_backend());
  };
  const std::vector<double> expected = {11, 13, 15};
  const Tensor ten = three(10);
  const RecordingScope off(false);
  Tensor held = three(1);
  EXPECT_EQ(sum_of(held, ten).to_vector<double>(), expected);
  EXPECT_EQ(held.to_vector<double>(), three(1).to_vector<double>());
  const void* const place = held.data();
  const Tensor sum = sum_of(std::move(held), ten);
  EXPECT_EQ(sum.to_vector<double>(), expected);
  EXPECT_EQ(sum.data(), place);
  EXPECT_EQ(sum_of({}, ten).data(), ten.data());
  EXPECT_EQ(sum_of(ten, {}).data(), ten.data());
  // With a history nothing is overwritten that a derivative may read.
  const RecordingScope on(true);
  const Tensor x = variable(three(1), 0);
  const Tensor y = sum_of(multiply(x, x), ten);
  EXPECT_EQ(vjp([&](std::span<const Tensor> in) { return sum_of(multiply(in[0], in[0]), ten); },
                std::array{three(1)}, three(1))
                .second[0]
                .to_vector<double>(),
            (std::vector<double>{2, 8, 18}));
  EXPECT_NE(y.node(), nullptr);
}

TEST_P(OpTable, KeepsAllThatItsDerivativesRead) {
  const OpCase& op = GetParam();
  std::vector<Tensor> targets;
  Tensor y = applied(op, std::vector<bool>(op.inputs.size(), true), targets);
  const auto together = derivatives_of(y, targets);
  for (const std::vector<bool>& chosen : choices(op.inputs.size())) {
    y = applied(op, chosen, targets);
    const auto found = derivatives_of(y, targets);
    for (size_t i = 0, next = 0; i < chosen.size(); ++i) {
      if (!chosen[i]) continue;
      EXPECT_EQ(found[next++], together[i]) << "input " << i;
    }
    const EveryOrderScope every;
    y = applied(op, chosen, targets);
    EXPECT_EQ(derivatives_of(y, targets), found) << "what is kept for other derivatives changes this one";
  }
}

// Without any one of the arrays that are kept, some derivative fails, and says so.
TEST_P(OpTable, KeepsNothingThatNoDerivativeReads) {
  const OpCase& op = GetParam();
  for (const std::vector<bool>& chosen : choices(op.inputs.size())) {
    std::vector<Tensor> targets;
    Tensor y = applied(op, chosen, targets);
    const size_t count = nodes_below(y).size();
    for (size_t n = 0; n < count; ++n) {
      for (size_t k = 0; k < kept_by(*nodes_below(y)[n]).size(); ++k) {
        const Tensor broken = applied(op, chosen, targets);
        Node& node = *nodes_below(broken)[n];
        Tensor& kept = *kept_by(node)[k];
        kept.drop_elements();
        try {
          derivatives_of(broken, targets);
          ADD_FAILURE() << node.name() << " keeps " << kept.shape().to_string() << " that nothing reads";
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kInternal);
          EXPECT_NE(std::string(error.what()).find(node.name()), std::string::npos) << error.what();
        }
      }
    }
  }
}

// Half the distance from 1 to the next number: the largest relative error of one rounding.
double unit_roundoff(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
}

// The op on inputs rounded to `dtype` and given as `given`, against the same numbers in fp64. 16-bit results
// are rounded up to five times on their way (feed_forward: bias, argument, GELU, bias, result); fp32 sums are
// rounded at every term.
void expect_agreement(const OpCase& op, DType dtype, DType given) {
  if (op.name == "dropout") return;  // draws more bits in fp64
  std::vector<Tensor> low, exact;
  for (const Tensor& input : op.inputs) {
    low.push_back(input.converted(dtype).converted(given));
    exact.push_back(low.back().converted(DType::kF64));
  }
  DType result;
  {
    const RecordingScope off(false);
    result = op.function(low).dtype();
  }
  const Tensor ones = op.function(exact).full_like(1.0);
  const auto [value, gradients] = vjp(op.function, low, ones.converted(result));
  std::vector<Tensor> expected;
  Tensor expected_value;
  {
    const AutocastScope off(DType::kF32);
    std::tie(expected_value, expected) = vjp(op.function, exact, ones);
  }
  const double roundings = dtype == DType::kF32 ? 80 : 5;
  EXPECT_LT(largest_error(value, expected_value), roundings * unit_roundoff(dtype));
  for (size_t i = 0; i < low.size(); ++i) {
    EXPECT_EQ(gradients[i].dtype(), given) << i;
    EXPECT_LT(largest_error(gradients[i], expected[i]), 4 * roundings * unit_roundoff(dtype)) << i;
  }
  // Through the reference, as higher derivatives go.
  const std::vector<Tensor> recorded = grad([&](Inputs x) { return sum(op.function(x)); }, low, true);
  for (size_t i = 0; i < low.size(); ++i) {
    EXPECT_EQ(recorded[i].dtype(), given) << i;
    EXPECT_LT(largest_error(recorded[i], expected[i]), 4 * roundings * unit_roundoff(dtype))
        << "recorded " << i;
  }
}

TEST_P(OpTable, SinglePrecisionAgreesWithDouble) {
  expect_agreement(GetParam(), DType::kF32, DType::kF32);
}
TEST_P(OpTable, BrainFloatAgreesWithDouble) {
  expect_agreement(GetParam(), DType::kBF16, DType::kBF16);
}
TEST_P(OpTable, HalfPrecisionAgreesWithDouble) {
  expect_agreement(GetParam(), DType::kF16, DType::kF16);
}

TEST_P(OpTable, AutocastAgreesWithDouble) {
  for (DType compute : {DType::kBF16, DType::kF16}) {
    const AutocastScope scope(compute);
    expect_agreement(GetParam(), compute, DType::kF32);
    expect_agreement(GetParam(), compute, compute);
  }
}

}  // namespace
}  // namespace lockstep::test
