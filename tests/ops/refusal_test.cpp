// What callers of ops get wrong is their mistake, and said in one line: op, rule, shapes and types.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "device.h"
#include "lockstep/autodiff/autocast.h"
#include "lockstep/autodiff/derivatives.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/core/error.h"
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

namespace lockstep::test {
namespace {

Tensor zeros(const Shape& shape, DType dtype = DType::kF32) {
  return Tensor::zeros(shape, dtype, test_backend());
}

struct Misuse {
  std::string name;
  std::function<void()> call;
  std::string message;
};

std::vector<Misuse> misuses() {
  const Tensor x = zeros({2, 3}), wide = zeros({2, 3}, DType::kF64), undefined;
  const Tensor whole = Tensor::from(Shape{2}, std::vector<int32_t>{0, 1}, test_backend());
  const auto once = [](const Tensor& y) { return y; };
  return {
      {"add_shapes",
       [=] {
         add(x, zeros({2, 4}));
       },
       "add: shapes do not broadcast: (2,3) with (2,4)"},
      {"add_types", [=] { add(x, wide); }, "add: dtypes differ: fp32 and fp64"},
      {"add_nothing", [=] { add(x, undefined); }, "an undefined tensor is read"},
      {"relu_nothing", [=] { relu(undefined); }, "an undefined tensor is read"},
      {"relu_integers", [=] { relu(whole); }, "unary: dtype int32 is not supported"},
      {"matmul_shapes",
       [=] {
         matmul(zeros({3, 4}), zeros({5, 6}));
       },
       "matmul: inner dimensions differ: (3,4) x (5,6)"},
      {"matmul_axes", [=] { matmul(zeros({4}), x); }, "matmul: both need at least two axes: (4) x (2,3)"},
      {"linear_shapes",
       [=] {
         linear(x, zeros({4, 2}), undefined);
       },
       "linear: inner dimensions differ: (2,3) x (4,2)"},
      {"linear_bias",
       [=] {
         linear(x, zeros({3, 5}), zeros({4}));
       },
       "linear: a bias (5) for the weight expected, got (4) fp32 and (3,5) fp32"},
      {"convolution_channels",
       [=] {
         convolution(zeros({1, 5, 5, 2}), zeros({4, 3, 3, 3}), undefined, {});
       },
       "convolution: needs (N,H,W,C) and (O,KH,KW,C), got (1,5,5,2) and (4,3,3,3)"},
      {"convolution_bias",
       [=] {
         convolution(zeros({1, 5, 5, 2}), zeros({4, 3, 3, 2}), zeros({3}), {});
       },
       "convolution: weights (O,KH,KW,C) and a bias (O) expected, got (4,3,3,2) fp32 and (3) fp32"},
      {"max_pool", [=] { max_pool(x, 2, 2, {}); }, "max_pool: needs (N,H,W,C), got (2,3)"},
      {"cross_entropy_labels", [=] { cross_entropy(x, zeros({2}), undefined); },
       "cross_entropy: logits (N,C) and int32 labels (N) expected, got (2,3) fp32 and (2) fp32"},
      {"cross_entropy_weights", [=] { cross_entropy(x, whole, zeros({3})); },
       "cross_entropy: fp32 weights, as many as there are samples (2), expected, got (3) fp32"},
      {"logistic_loss", [=] { logistic_loss(x, zeros({2}), undefined); },
       "logistic_loss: one logit a sample and as many targets expected, got (2,3) fp32 and (2) fp32"},
      {"mean_squared_error", [=] { mean_squared_error(x, zeros({2}), undefined); },
       "mean_squared_error: predictions and as many targets expected, got (2,3) fp32 and (2) fp32"},
      {"softmax",
       [=] {
         softmax(zeros({2, 0}));
       },
       "softmax: needs a last axis with elements, shape (2,0)"},
      {"layer_norm", [=] { layer_norm(x, zeros({2}), zeros({3}), 1e-5); },
       "layer_norm: x (...,C) with elements, fp32 gamma (C) and fp32 beta (C) expected, got (2,3) fp32, (2) "
       "fp32 and (3) fp32"},
      {"rms_norm", [=] { rms_norm(x, zeros({2}), 1e-5); },
       "rms_norm: x (...,C) with elements and gamma (C) expected, got (2,3) fp32 and (2) fp32"},
      {"embedding", [=] { embedding(x, zeros({2})); },
       "embedding: a table (V,C) and int32 indices expected, got (2,3) fp32 and (2) fp32"},
      {"head_losses",
       [=] {
         head_losses({x, zeros({5, 4})}, whole, undefined, undefined);
       },
       "head_losses: x (N,C), a table (V,C), int32 labels (N) and fp32 weights (N) or none expected, got "
       "(2,3) "
       "fp32, (5,4) fp32, (2) int32 and none"},
      {"recurrent",
       [=] {
         recurrent(RecurrentCell::kTanh, x, zeros({3, 3}), undefined, false);
       },
       "recurrent: inputs (T,B,1*H), weight (H,1*H) and bias (H; GRU only) expected, got (2,3) fp32, (3,3) "
       "fp32 "
       "and no bias"},
      {"rotary", [=] { rotary(x, x, x, 1); },
       "rotary: x (B,T,H,D), D even, with tables (T,D/2) and at most H heads to turn expected, got (2,3), "
       "(2,3), (2,3) and 1"},
      {"swiglu", [=] { swiglu(x); }, "swiglu: an even last extent expected, got (2,3)"},
      {"reshape", [=] { reshape(x, Shape{4}); }, "reshape: 6 elements of (2,3) do not fit (4)"},
      {"reshape_unknown",
       [=] {
         reshape(x, {-1, -1});
       },
       "reshape: one extent of -1 at most expected"},
      {"permute",
       [=] {
         permute(x, {0, 0});
       },
       "permute: a permutation of the 2 axes of (2,3) expected, got (0,0)"},
      {"slice", [=] { slice(x, 1, 2, 5); }, "slice: elements [2, 5) of axis 1 are not in (2,3)"},
      {"axis", [=] { sum(x, {2}); }, "axis 2 is out of range for rank 2"},
      {"axis_twice",
       [=] {
         sum(x, {0, -2});
       },
       "reduction: an axis is named twice"},
      {"max_of_nothing",
       [=] {
         max(zeros({2, 0}), 1);
       },
       "max: of no elements, shape (2,0)"},
      {"concatenate",
       [=] {
         concatenate({x, zeros({3, 3})}, 1);
       },
       "concatenate: (2,3) and (3,3) do not fit along axis 1"},
      {"dropout", [=] { dropout(x, 1.5); }, "dropout: probability must be in [0, 1), got 1.5"},
      {"dropout_without_draws", [=] { dropout(x, 0.5); }, "random draw outside of any RandomScope"},
      {"autocast", [=] { const AutocastScope scope(DType::kI32); }, "autocast: cannot compute in int32"},
      {"axes",
       [=] {
         zeros({1, 1, 1, 1, 1, 1, 1});
       },
       "shape: more than 6 axes after (1,1,1,1,1,1)"},
      {"values", [=] { Tensor::from(Shape{2}, std::vector<float>(3), test_backend()); },
       "tensor: 3 values given for shape (2)"},
      {"item", [=] { x.item(); }, "item: needs exactly one element, shape is (2,3)"},
      {"grad",
       [=] {
         value_and_grad([=](std::span<const Tensor> in) { return once(in[0]); }, {&x, 1});
       },
       "grad: the function's value must be one number, its shape is (2,3)"},
  };
}

class Refusal : public ::testing::TestWithParam<Misuse> {};

TEST_P(Refusal, IsAUsageErrorInOneLine) {
  try {
    GetParam().call();
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_EQ(error.what(), GetParam().message);
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Refusal, ::testing::ValuesIn(misuses()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lockstep::test
