// Which algorithm computes a product on a GPU: as the table of plans says, the fastest when it is tuned, the
// library's first proposal otherwise. Where stand-ins say which candidate is fastest, that one.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>

#include "device.h"
#include "kernels/arrays.h"
#include "kernels/parity.h"
#include "lockstep/core/log.h"
#include "lockstep/kernels/plan_table.h"

namespace lockstep::test {
namespace {

// Long sums, so that candidates that split k differ in their bits.
constexpr int64_t kM = 24, kN = 16, kK = 600;

class ProductPlans : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_device() != "cuda") GTEST_SKIP() << "the device is the CPU";
    table_ = test_backend().plans();
    ASSERT_NE(table_, nullptr);
    TearDown();
  }
  void TearDown() override {
    if (table_ == nullptr) return;
    table_->set_search({});
    table_->replace({});
  }

  // a' b, plus a bias.
  static std::vector<float> product(bool bias = false) {
    Backend& backend = test_backend();
    Arrays arrays(backend, 0);
    MatmulArguments arguments;
    arguments.m = kM, arguments.n = kN, arguments.k = kK;
    arguments.transpose_a = true;
    arguments.a = arrays.input(random_values<float>(kM * kK, 1, -1, 1));
    arguments.b = arrays.input(random_values<float>(kK * kN, 2, -1, 1));
    if (bias) arguments.bias = arrays.input(random_values<float>(kN, 3, -1, 1));
    float* const c = arrays.output<float>(kM * kN);
    arguments.c = c;
    backend.matmul(arguments);
    std::vector<float> values(static_cast<size_t>(kM * kN));
    backend.copy_to_host(values.data(), c, values.size() * sizeof(float));
    return values;
  }
  static std::vector<float> candidate(int number) {
    PlanTable& table = *test_backend().plans();
    table.set_search({.candidate = number});
    std::vector<float> values = product();
    table.set_search({});
    return values;
  }
  // What the stand-ins are told; the process reads it once.
  static std::string stand_in(const std::string& entry) {
    const char* text = std::getenv("LOCKSTEP_CUDA_ON_CPU");
    const std::string settings = std::string(",") + (text == nullptr ? "" : text) + ",";
    const size_t found = settings.find("," + entry + "=");
    if (found == std::string::npos) return "";
    const size_t value = found + entry.size() + 2;
    return settings.substr(value, settings.find(',', value) - value);
  }

  PlanTable* table_ = nullptr;
};

// The plans name what the library does on its way out of a product.
TEST_F(ProductPlans, BiasesTheTanhFormOfGeluAndTheirGradientsAreTheLibrarys) {
  Backend& backend = test_backend();
  const auto calls = [&](const std::function<void(Arrays&, MatmulArguments&)>& complete) {
    table_->replace({});
    table_->set_search({.tune = true});
    Arrays arrays(backend, 0);
    MatmulArguments arguments;
    arguments.dtype = arguments.output = DType::kBF16;
    arguments.m = kM, arguments.n = kN, arguments.k = kK;
    arguments.a = arrays.input(random_values<BFloat16>(kM * kK, 1, -1, 1));
    arguments.b = arrays.input(random_values<BFloat16>(kK * kN, 2, -1, 1));
    arguments.c = arrays.output<float>(kM * kN);
    complete(arrays, arguments);
    backend.matmul(arguments);
    std::string text;
    for (const auto& [call, choice] : table_->plans()) text += call.substr(0, call.find(" 1x")) + ";";
    return text;
  };
  const auto with_gelu = [](Arrays& arrays, MatmulArguments& arguments) {
    arguments.bias = arrays.input(random_values<float>(kN, 3, -1, 1));
    arguments.activation = Activation::kGeluTanh;
  };
  EXPECT_EQ(calls(with_gelu), "matmul bf16->bf16 nn+bias+gelu;");
  const auto with_argument = [&](Arrays& arrays, MatmulArguments& arguments) {
    with_gelu(arrays, arguments);
    arguments.argument = arrays.output<BFloat16>(kM * kN);
  };
  EXPECT_EQ(calls(with_argument), "matmul bf16->bf16 nn+bias+gelu+z;");
  const auto derivative = [](Arrays& arrays, MatmulArguments& arguments) {
    arguments.activation = Activation::kGeluTanh;
    arguments.derivative_at = arrays.input(random_values<BFloat16>(kM * kN, 3, -1, 1));
  };
  EXPECT_EQ(calls(derivative), "matmul bf16->bf16 nn+dgelu;");
  const auto sums = [](Arrays& arrays, MatmulArguments& arguments) {
    arguments.output = DType::kF32;
    arguments.column_sums = arrays.output<float>(kN);
  };
  EXPECT_EQ(calls(sums), "matmul bf16->fp32 nn+sums;");
  // What it does not do as we define it is not asked of it.
  const auto exact_gelu = [&](Arrays& arrays, MatmulArguments& arguments) {
    with_gelu(arrays, arguments);
    arguments.activation = Activation::kGelu;
  };
  EXPECT_EQ(calls(exact_gelu), "matmul bf16->bf16 nn+bias;");
  const auto odd_rows = [&](Arrays& arrays, MatmulArguments& arguments) {
    derivative(arrays, arguments);
    arguments.n = kN - 1;
  };
  EXPECT_EQ(calls(odd_rows), "matmul bf16->bf16 nn;");
}

TEST_F(ProductPlans, WithoutTuningTheFirstProposalIsTakenAndNothingRecorded) {
  const std::vector<float> values = product();
  EXPECT_TRUE(table_->plans().empty());
  EXPECT_EQ(candidate(0), values);
  EXPECT_EQ(candidate(1000), values);
}

TEST_F(ProductPlans, TuningRecordsOnePlanACallAndTheTableKeepsIt) {
  const std::vector<float> first = product();
  table_->set_search({.tune = true});
  const std::vector<float> tuned = product();
  const Plans plans = table_->plans();
  ASSERT_EQ(plans.size(), 1u);
  EXPECT_EQ(plans.begin()->first, "matmul fp32->fp32 tn 1x24x16x600 align 16,16,16,16");
  EXPECT_EQ(plans.begin()->second.size(), 128u);
  EXPECT_EQ(product(), tuned);
  product(true);
  EXPECT_EQ(table_->plans().size(), 2u);
  // From now on the choice is the table's.
  table_->set_search({});
  EXPECT_EQ(product(), tuned);
  table_->replace({});
  EXPECT_EQ(product(), first);
  table_->replace(plans);
  EXPECT_EQ(product(), tuned);
  EXPECT_EQ(table_->plans(), plans);
  const std::string fastest = stand_in("fastest");
  if (!fastest.empty()) {
    EXPECT_EQ(tuned, candidate(std::stoi(fastest)));
    EXPECT_NE(tuned, first);
  }
}

// What is known is used without a measurement: a plan of another candidate than the fastest shows it.
TEST_F(ProductPlans, WhatIsKnownIsNotMeasuredAgain) {
  table_->set_search({.tune = true});
  product();
  const auto [call, choice] = *table_->plans().begin();
  table_->replace({});
  table_->set_search({.tune = true, .known = {{call, choice}, {"another", "choice"}}});
  product();
  EXPECT_EQ(table_->plans(), (Plans{{call, choice}}));
}

TEST_F(ProductPlans, AChoiceThatIsNoneIsLeftOutWithAWarning) {
  const std::vector<float> first = product();
  table_->set_search({.tune = true});
  product();
  const auto [call, choice] = *table_->plans().begin();
  table_->set_search({});
  for (const std::string& bad :
       {std::string("00"), choice + "00", "x" + choice.substr(1), std::string(choice.size(), '0')}) {
    table_->replace({{call, bad}});
    log_to_stderr(0, 1, false);
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(product(), first);
    EXPECT_NE(::testing::internal::GetCapturedStderr().find("plans: not an algorithm that cuBLASLt can use"),
              std::string::npos)
        << bad;
    EXPECT_TRUE(table_->plans().empty());
  }
}

TEST_F(ProductPlans, ALaneUsesTheTableOfItsDevice) {
  EXPECT_EQ(test_backend().lane().plans(), table_);
}

// Gradients of convolution weights add up range by range: what they have summed so far is still there after
// candidates were tried.
TEST_F(ProductPlans, TuningAddsToAnAccumulatorOnce) {
  Backend& backend = test_backend();
  backend.use_cudnn(false);
  ConvolutionArguments a;
  a.n = 33, a.h = a.oh = 64, a.w = a.ow = 65, a.c = 8, a.o = 2, a.kh = a.kw = 3, a.pad_h = a.pad_w = 1;
  const auto x = random_values<float>(a.n * a.h * a.w * a.c, 1, -1, 1);
  const auto dy = random_values<float>(a.n * a.oh * a.ow * a.o, 2, -1, 1);
  const auto gradient = [&] {
    Arrays arrays(backend, 0);
    float* const dweights = arrays.output<float>(a.o * a.kh * a.kw * a.c);
    backend.convolution_backward_weights(a, arrays.input(x), arrays.input(dy), dweights);
    std::vector<float> values(static_cast<size_t>(a.o * a.kh * a.kw * a.c));
    backend.copy_to_host(values.data(), dweights, values.size() * sizeof(float));
    return values;
  };
  table_->set_search({.tune = true});
  const std::vector<float> tuning = gradient();
  const Plans plans = table_->plans();
  table_->set_search({});
  const bool accumulates = std::any_of(plans.begin(), plans.end(), [](const auto& plan) {
    return plan.first.find("+c ") != std::string::npos;
  });
  EXPECT_TRUE(accumulates) << "the shape is too small for several ranges";
  EXPECT_EQ(gradient(), tuning);
  backend.use_cudnn(true);
}

}  // namespace
}  // namespace lockstep::test
