// The distribution of initial weights, against the formulas of the papers, and what it depends on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "nn/built_model.h"

namespace lockstep {
namespace {

struct Variant {
  const char* name;
  double variance;  // for fan_in 300, fan_out 100
  bool uniform;
};

// Glorot and Bengio 2010, equation 12 and its uniform form 16: variance 2/(fan_in + fan_out).
// He et al. 2015, equation 10: variance 2/fan_in.
constexpr Variant kVariants[] = {{"xavier_normal", 2.0 / 400.0, false},
                                 {"xavier_uniform", 2.0 / 400.0, true},
                                 {"he_normal", 2.0 / 300.0, false},
                                 {"he_uniform", 2.0 / 300.0, true}};

struct Moments {
  double mean, variance, kurtosis, largest;
};

Moments moments_of(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  Moments m{0.0, 0.0, 0.0, 0.0};
  for (double v : values) m.mean += v / n;
  for (double v : values) {
    m.variance += (v - m.mean) * (v - m.mean) / n;
    m.kurtosis += std::pow(v - m.mean, 4) / n;
    m.largest = std::max(m.largest, std::abs(v));
  }
  m.kurtosis /= m.variance * m.variance;
  return m;
}

class Initialization : public testing::TestWithParam<Variant> {
 protected:
  // Tolerances are five standard errors of n draws: the mean's is sqrt(variance/n), the variance's
  // variance * sqrt((kurtosis - 1)/n).
  void expect_distribution(const Moments& m, double n, double variance) const {
    const bool uniform = GetParam().uniform;
    const double kurtosis = uniform ? 1.8 : 3.0;
    EXPECT_NEAR(m.mean, 0.0, 5.0 * std::sqrt(variance / n));
    EXPECT_NEAR(m.variance, variance, 5.0 * variance * std::sqrt((kurtosis - 1.0) / n));
    EXPECT_NEAR(m.kurtosis, kurtosis, 0.25);
    if (uniform) {
      EXPECT_LE(m.largest, std::sqrt(3.0 * variance));
    } else {
      EXPECT_GT(m.largest, 3.0 * std::sqrt(variance));
    }
  }
};

TEST_P(Initialization, OfALinearLayerHasThePapersVariance) {
  BuiltModel model(
      std::string("[model]\ntype = 'mlp'\nhidden = [100]\ninitialization = '") + GetParam().name + "'",
      {{300}, DType::kF32, 10});
  model.allocate();
  expect_distribution(moments_of(model.store.parameter(0).to_vector<double>()), 30000.0, GetParam().variance);
  for (double bias : model.store.parameter(1).to_vector<double>()) EXPECT_EQ(bias, 0.0);
}

TEST_P(Initialization, OfAConvolutionCountsTheWindowInItsFans) {
  BuiltModel model(
      std::string("[model]\ntype = 'sequential'\nlayers = [{type = 'convolution', channels = 40, kernel = 5, "
                  "initialization = '") +
          GetParam().name + "'}, {type = 'flatten'}]",
      {{5, 5, 30}, DType::kF32, 40});
  model.allocate();
  const double fan_in = 25.0 * 30.0, fan_out = 25.0 * 40.0;
  const bool xavier = std::string(GetParam().name).starts_with("xavier");
  expect_distribution(moments_of(model.store.parameter(0).to_vector<double>()), 30000.0,
                      xavier ? 2.0 / (fan_in + fan_out) : 2.0 / fan_in);
}

INSTANTIATE_TEST_SUITE_P(Variants, Initialization, testing::ValuesIn(kVariants),
                         [](const auto& variant) { return std::string(variant.param.name); });

TEST(InitialValues, OfARecurrentLayerHaveTheSpectralRadiusAskedForInEachGate) {
  constexpr int64_t kUnits = 120;
  BuiltModel model(
      "[model]\ntype = 'sequential'\nlayers = [{type = 'recurrent', cell = 'lstm', units = 120, "
      "recurrent_scale = "
      "1.5}]",
      {{4, 3}, DType::kF32, kUnits});
  model.allocate();
  const auto weight = model.store.parameter(1).to_vector<double>();
  for (int64_t gate = 0; gate < 4; ++gate) {
    // The growth of A^k v is the largest eigenvalue's magnitude to the power k, times what the k-th root
    // forgets.
    std::vector<double> v = uniform_values(kUnits, 3), next(v.size());
    double growth = 0.0;
    constexpr int kPower = 300;
    for (int k = 0; k < kPower; ++k) {
      double norm = 0.0;
      for (size_t i = 0; i < v.size(); ++i) {
        next[i] = 0.0;
        for (size_t j = 0; j < v.size(); ++j) {
          next[i] += weight[i * 4 * v.size() + static_cast<size_t>(gate) * v.size() + j] * v[j];
        }
        norm += next[i] * next[i];
      }
      norm = std::sqrt(norm);
      growth += std::log(norm) / kPower;
      for (size_t i = 0; i < v.size(); ++i) v[i] = next[i] / norm;
    }
    EXPECT_NEAR(std::exp(growth), 1.5, 0.15) << "gate " << gate;
  }
  for (double bias : model.store.parameter(2).to_vector<double>()) EXPECT_EQ(bias, 0.0);
}

TEST(InitialValues, DependOnSeedAndNameOnly) {
  const std::string head = "[model]\ntype = 'mlp'\nactivation = 'tanh'\nhidden = ";
  BuiltModel one(head + "[20]", {{12}, DType::kF32, 3}), two(head + "[20, 7]", {{12}, DType::kF32, 3});
  one.allocate(DType::kF64, 5);
  two.allocate(DType::kF64, 5);
  // hidden.0.weight has other parameters around it, the same name and the same seed.
  const auto weight = one.store.parameter(0).to_vector<double>();
  EXPECT_EQ(weight, two.store.parameter(0).to_vector<double>());
  BuiltModel reseeded(head + "[20]", {{12}, DType::kF32, 3});
  reseeded.allocate(DType::kF64, 6);
  EXPECT_NE(weight, reseeded.store.parameter(0).to_vector<double>());
}

TEST(InitialValues, OfLayersWithDifferentNamesDiffer) {
  BuiltModel model("[model]\ntype = 'mlp'\nhidden = [12, 12]", {{12}, DType::kF32, 3});
  model.allocate();
  EXPECT_NE(model.store.parameter(0).to_vector<double>(), model.store.parameter(2).to_vector<double>());
}

TEST(InitialValues, OfNormsAreOneAndZeroAndOfRunningStatisticsZeroAndOne) {
  BuiltModel model("[model]\ntype = 'cnn'\nchannels = [4]\nstrides = [1]", kDigits);
  model.allocate();
  for (size_t i = 0; i < model.store.parameters().size(); ++i) {
    const std::string& name = model.store.parameters()[i].name;
    const auto values = model.store.parameter(static_cast<int>(i)).to_vector<double>();
    const bool norm = name.ends_with("gamma") || name.ends_with("beta");
    const double initial = name.ends_with("gamma") ? 1.0 : 0.0;
    if (norm) {
      EXPECT_EQ(values, std::vector<double>(4, initial));
    }
  }
  for (size_t i = 0; i < model.store.statistics().size(); ++i) {
    const bool mean = model.store.statistics()[i].name.ends_with("running_mean");
    EXPECT_EQ(model.store.statistic(static_cast<int>(i)).to_vector<double>(),
              std::vector<double>(4, mean ? 0.0 : 1.0));
  }
}

}  // namespace
}  // namespace lockstep
