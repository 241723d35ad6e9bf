// Attention layers and transformer blocks against their equations, written out number by number.
#include <gtest/gtest.h>

#include <cmath>

#include "device.h"
#include "lockstep/autodiff/random_scope.h"
#include "lockstep/nn/transformer_block.h"
#include "nn/built_model.h"

namespace lockstep {
namespace {

constexpr int64_t kBatch = 2, kPositions = 5, kFeatures = 6, kHeads = 3, kExpansion = 2;

using Numbers = std::vector<double>;

// Rows of x times a matrix (inputs, outputs), plus a bias.
Numbers linear_rows(const Numbers& x, const Numbers& weight, const Numbers& bias) {
  const size_t outputs = bias.size(), inputs = weight.size() / outputs;
  Numbers y;
  for (size_t row = 0; row < x.size() / inputs; ++row) {
    for (size_t j = 0; j < outputs; ++j) {
      double sum = bias[j];
      for (size_t i = 0; i < inputs; ++i) sum += x[row * inputs + i] * weight[i * outputs + j];
      y.push_back(sum);
    }
  }
  return y;
}

Numbers norm_rows(const Numbers& x, const Numbers& gamma, const Numbers& beta) {
  const size_t n = gamma.size();
  Numbers y(x.size());
  for (size_t row = 0; row < x.size(); row += n) {
    double mean = 0, variance = 0;
    for (size_t i = 0; i < n; ++i) mean += x[row + i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i)
      variance += (x[row + i] - mean) * (x[row + i] - mean) / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) {
      y[row + i] = (x[row + i] - mean) / std::sqrt(variance + 1e-5) * gamma[i] + beta[i];
    }
  }
  return y;
}

Numbers attend_rows(const Numbers& qkv, bool causal) {
  constexpr size_t kSize = kFeatures / kHeads;
  Numbers y(kBatch * kPositions * kFeatures);
  for (size_t b = 0; b < kBatch; ++b) {
    const auto at = [&](size_t part, size_t t, size_t i) {
      return qkv[((b * kPositions + t) * 3 + part) * kFeatures + i];
    };
    for (size_t h = 0; h < kHeads * kSize; h += kSize) {
      for (size_t t = 0; t < kPositions; ++t) {
        const size_t seen = causal ? t + 1 : kPositions;
        Numbers p;
        double total = 0;
        for (size_t s = 0; s < seen; ++s) {
          double score = 0;
          for (size_t i = h; i < h + kSize; ++i)
            score += at(0, t, i) * at(1, s, i) / std::sqrt(double{kSize});
          p.push_back(std::exp(score));
          total += p.back();
        }
        for (size_t s = 0; s < seen; ++s) {
          for (size_t i = h; i < h + kSize; ++i) {
            y[(b * kPositions + t) * kFeatures + i] += p[s] / total * at(2, s, i);
          }
        }
      }
    }
  }
  return y;
}

Numbers sum_of(const Numbers& a, const Numbers& b) {
  Numbers y;
  for (size_t i = 0; i < a.size(); ++i) y.push_back(a[i] + b[i]);
  return y;
}

class Transformer : public testing::TestWithParam<bool> {
 protected:
  TransformerBlock build(double dropout = 0.0) {
    TransformerOptions options;
    options.attention = {kHeads, GetParam()};
    options.expansion = kExpansion;
    options.dropout = dropout;
    TransformerBlock block(kFeatures, options, ModuleBuilder(store_));
    store_.allocate(DType::kF64, test_backend(), 5);
    Tensor values = store_.values();  // biases and norms away from where they start
    values.assign(Tensor::from(values.shape(),
                               sum_of(values.to_vector<double>(), uniform_values(values.elements(), 6)),
                               test_backend()));
    return block;
  }
  Numbers parameter(const std::string& name) const {
    for (size_t i = 0; i < store_.parameters().size(); ++i) {
      if (store_.parameters()[i].name == name)
        return store_.parameter(static_cast<int>(i)).to_vector<double>();
    }
    ADD_FAILURE() << "no parameter " << name;
    return {};
  }
  Numbers linear_of(const std::string& name, const Numbers& x) const {
    return linear_rows(x, parameter(name + ".weight"), parameter(name + ".bias"));
  }
  Numbers norm_of(const std::string& name, const Numbers& x) const {
    return norm_rows(x, parameter(name + ".gamma"), parameter(name + ".beta"));
  }
  Numbers run(const TransformerBlock& block, const Numbers& x, bool training = false) const {
    ForwardContext context = forward_context(store_, training);
    const RandomScope random(1, 2, 3);
    return block.forward(Tensor::from({kBatch, kPositions, kFeatures}, x, test_backend()), context)
        .to_vector<double>();
  }

  ParameterStore store_;
  Numbers x_ = uniform_values(kBatch * kPositions * kFeatures, 4);
};

TEST_P(Transformer, BlockIsItsEquations) {
  const TransformerBlock block = build();
  const Numbers attended = attend_rows(linear_of("attention.qkv", norm_of("attention_norm", x_)), GetParam());
  const Numbers h = sum_of(x_, linear_of("attention.output", attended));
  Numbers hidden = linear_of("expand", norm_of("feedforward_norm", h));
  for (double& value : hidden) value *= 0.5 * std::erfc(-value / std::sqrt(2.0));
  const Numbers expected = sum_of(h, linear_of("contract", hidden)), found = run(block, x_);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-12) << i;
}

TEST_P(Transformer, APositionSeesThoseBehindItOnlyWhereItIsNotCausal) {
  const TransformerBlock block = build();
  const Numbers before = run(block, x_);
  Numbers changed = x_;
  changed[3 * kFeatures] += 1.0;  // position 3 of sample 0
  const Numbers after = run(block, changed);
  for (size_t row = 0; row < kBatch * kPositions; ++row) {
    const auto begin = static_cast<std::ptrdiff_t>(row * kFeatures);
    const bool same =
        std::equal(before.begin() + begin, before.begin() + begin + kFeatures, after.begin() + begin);
    const bool sees = row < kPositions && (!GetParam() || row >= 3);
    EXPECT_EQ(same, !sees) << "row " << row;
  }
}

TEST_P(Transformer, DropoutIsOfTrainingAlone) {
  const TransformerBlock block = build(0.5);
  const Numbers evaluated = run(block, x_), trained = run(block, x_, true);
  EXPECT_NE(trained, evaluated);
  EXPECT_EQ(run(block, x_, true), trained) << "draws are counted, not remembered";
}

INSTANTIATE_TEST_SUITE_P(Masks, Transformer, testing::Bool(),
                         [](const auto& variant) { return variant.param ? "Causal" : "All"; });

}  // namespace
}  // namespace lockstep
