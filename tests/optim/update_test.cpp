// One update: segments, decay, rates, scales, look-ahead, resumption and misuse, in both precisions.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/timed_backend.h"
#include "optim/problems.h"

namespace lockstep::testing {
namespace {

const std::vector<std::string> kTables = {
    "type = 'gradient_descent'\nweight_decay = 0.1",
    "type = 'sgd'\nweight_decay = 0.1",
    "type = 'momentum'\nweight_decay = 0.1",
    "type = 'momentum'\nform = 'classical'\ndampening = 0.3\nweight_decay = 0.1",
    "type = 'nesterov'\nweight_decay = 0.1",
    "type = 'nesterov'\nform = 'classical'\nweight_decay = 0.1",
    "type = 'adam'\nweight_decay = 0.1",
    "type = 'adamw'\nweight_decay = 0.1",
    "type = 'adam'\nvariant = 'amsgrad'\nweight_decay = 0.1",
    "type = 'adamw'\nvariant = 'amsgrad'\nweight_decay = 0.1",
    "type = 'nadam'\nweight_decay = 0.1",
    "type = 'adagrad'\nweight_decay = 0.1",
    "type = 'rmsprop'\nweight_decay = 0.1",
    "type = 'rmsprop'\ncentered = true\nweight_decay = 0.1",
    "type = 'lion'\nweight_decay = 0.1",
};

template <class T>
std::vector<T> random_values(int64_t n, uint32_t stream) {
  std::vector<T> values(static_cast<size_t>(n));
  const PhiloxKey key = philox_key(7, RandomPurpose::kTest);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<T>(uniform_float(philox(key, {static_cast<uint32_t>(i), stream}).r[0]) - 0.5f);
  }
  return values;
}

// An optimizer with the arrays that it works on.
template <class T>
struct Bench {
  int64_t n;
  std::unique_ptr<Optimizer> optimizer;
  Tensor parameters;

  Bench(const std::string& toml, int64_t extent)
      : n(extent),
        optimizer(optimizer_from(toml)),
        parameters(Tensor::from(Shape{extent}, random_values<T>(extent, 0), test_backend())) {
    optimizer->allocate(one_parameter({n}), n, {{0, n}}, dtype_of<T>, test_backend());
  }

  void step(const std::vector<UpdateSegment>& segments, const std::vector<T>& gradients,
            double learning_rate = 0.1, double gradient_scale = 1.0) {
    optimizer->before_gradient(parameters, learning_rate, segments);
    optimizer->update(
        {.parameters = parameters,
         .gradients = Tensor::from(Shape{static_cast<int64_t>(gradients.size())}, gradients, test_backend()),
         .gradient_scale = gradient_scale,
         .learning_rate = learning_rate,
         .segments = segments});
  }
  void step(const std::vector<UpdateSegment>& segments, uint32_t number) {
    step(segments, random_values<T>(n, number + 1));
  }

  // Parameters and slots, one after the other.
  std::vector<T> state() {
    std::vector<T> values = parameters.to_vector<T>();
    for (const OptimizerSlot& slot : optimizer->slots()) {
      const std::vector<T> more = slot.values.template to_vector<T>();
      values.insert(values.end(), more.begin(), more.end());
    }
    return values;
  }
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
class Update : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Update, Precisions);

TYPED_TEST(Update, SplitIntoSegmentsGivesTheSameBits) {
  const int64_t n = 5000;
  for (const std::string& table : kTables) {
    Bench<TypeParam> whole(table, n), split(table, n);
    for (uint32_t k = 0; k < 3; ++k) {
      whole.step({{.begin = 0, .end = n}}, k);
      split.step({{.begin = 1237, .end = 5000}, {.begin = 0, .end = 1}, {.begin = 1, .end = 1237}}, k);
    }
    EXPECT_TRUE(same_bits(whole.state(), split.state())) << table;
    EXPECT_EQ(split.optimizer->updates(), 3) << "segments must not count as updates: " << table;
  }
}

// A transformer that decays its matrices alone has a hundred: a hundred kernels, each waiting for the one
// before.
TEST(NeighbouringSegments, AreOneCallOfTheKernel) {
  TimedBackend timed(test_backend());
  const int64_t n = 256;
  for (const bool owns_all : {true, false}) {
    const auto optimizer = optimizer_from("type = 'adamw'\nweight_decay = 0.1");
    const std::vector<ElementRange> owned =
        owns_all ? std::vector<ElementRange>{{0, n}} : std::vector<ElementRange>{{10, 100}, {200, n}};
    optimizer->allocate(one_parameter({n}), n, owned, DType::kF32, timed);
    Tensor parameters = Tensor::zeros({n}, DType::kF32, timed);
    const std::vector<UpdateSegment> segments = {{.begin = 0, .end = 64},
                                                 {.begin = 64, .end = 70, .weight_decay = false},
                                                 {.begin = 70, .end = 192, .learning_rate_factor = 0.5},
                                                 {.begin = 192, .end = 256, .weight_decay = false}};
    timed.start();
    optimizer->update({.parameters = parameters,
                       .gradients = Tensor::full({n}, DType::kF32, timed, 1.0),
                       .learning_rate = 0.1,
                       .segments = segments});
    timed.stop();
  }
  std::map<std::string, int64_t> calls;
  for (const KernelTime& time : timed.times()) calls[time.name] += time.calls;
  EXPECT_EQ(calls["update fp32 256"], 1);
  EXPECT_EQ(calls["update fp32 90"], 1);
  EXPECT_EQ(calls["update fp32 56"], 1);
}

TYPED_TEST(Update, ThreadsDoNotChangeTheBits) {
  const int64_t n = 300'000;
  for (const std::string& table : kTables) {
    Bench<TypeParam> one(table, n), two(table, n);
    for (uint32_t k = 0; k < 2; ++k) one.step({{.begin = 0, .end = n}}, k);
    set_threads(2);
    for (uint32_t k = 0; k < 2; ++k) two.step({{.begin = 0, .end = n}}, k);
    set_threads(1);
    EXPECT_TRUE(same_bits(one.state(), two.state())) << table;
  }
}

TYPED_TEST(Update, SegmentWithoutDecayIsUpdatedAsIfDecayWereZero) {
  const int64_t n = 200, half = 101;
  for (const std::string& table : kTables) {
    Bench<TypeParam> mixed(table, n), decayed(table, n);
    Bench<TypeParam> free(table.substr(0, table.find("weight_decay")) + "weight_decay = 0", n);
    for (uint32_t k = 0; k < 3; ++k) {
      mixed.step({{.begin = 0, .end = half}, {.begin = half, .end = n, .weight_decay = false}}, k);
      decayed.step({{.begin = 0, .end = n}}, k);
      free.step({{.begin = 0, .end = n}}, k);
    }
    const auto mix = mixed.state(), on = decayed.state(), off = free.state();
    for (size_t i = 0; i < mix.size(); ++i) {
      EXPECT_EQ(mix[i], static_cast<int64_t>(i) % n < half ? on[i] : off[i]) << table << " " << i;
    }
    EXPECT_NE(on, off) << table;
  }
}

TYPED_TEST(Update, SegmentsRateFactorMultipliesTheLearningRate) {
  const int64_t n = 100;
  for (const std::string& table : kTables) {
    Bench<TypeParam> factor(table, n), rate(table, n);
    for (uint32_t k = 0; k < 3; ++k) {
      const auto gradients = random_values<TypeParam>(n, k + 1);
      factor.step({{.begin = 0, .end = n, .learning_rate_factor = 0.3}}, gradients, 0.1);
      rate.step({{.begin = 0, .end = n}}, gradients, 0.1 * 0.3);
    }
    EXPECT_TRUE(same_bits(factor.state(), rate.state())) << table;
  }
}

TYPED_TEST(Update, GradientScaleAppliesToTheGradientAndNotToTheDecay) {
  const int64_t n = 100;
  for (const std::string& table : kTables) {
    Bench<TypeParam> plain(table, n), scaled(table, n);
    for (uint32_t k = 0; k < 3; ++k) {
      auto gradients = random_values<TypeParam>(n, k + 1);
      plain.step({{.begin = 0, .end = n}}, gradients);
      for (TypeParam& g : gradients) g *= 1024;  // a power of two: exact
      scaled.step({{.begin = 0, .end = n}}, gradients, 0.1, 1.0 / 1024);
    }
    EXPECT_TRUE(same_bits(plain.state(), scaled.state())) << table;
  }
}

TYPED_TEST(Update, LeavesAlignmentGapsAtZero) {
  const int64_t n = 64;
  for (const std::string& table : kTables) {
    Bench<TypeParam> bench(table, n);
    bench.parameters.assign(bench.parameters.full_like(0.0));
    for (int k = 0; k < 3; ++k) bench.step({{.begin = 0, .end = n}}, std::vector<TypeParam>(n, TypeParam{0}));
    for (TypeParam value : bench.state()) EXPECT_EQ(value, TypeParam{0}) << table;
  }
}

TYPED_TEST(Update, TouchesNothingOutsideItsSegments) {
  const int64_t n = 90;
  for (const std::string& table : kTables) {
    Bench<TypeParam> bench(table, n);
    const std::vector<TypeParam> before = bench.state();
    for (uint32_t k = 0; k < 2; ++k) bench.step({{.begin = 30, .end = 60}}, k);
    const std::vector<TypeParam> after = bench.state();
    for (size_t i = 0; i < before.size(); ++i) {
      const bool inside = i % 90 >= 30 && i % 90 < 60;
      EXPECT_EQ(before[i] != after[i], inside) << table << " " << i;
    }
  }
}

TYPED_TEST(Update, IgnoresTheStatisticsBehindTheParameterGradients) {
  const int64_t n = 50;
  for (const std::string& table : kTables) {
    Bench<TypeParam> plain(table, n), tailed(table, n);
    auto gradients = random_values<TypeParam>(n, 1);
    plain.step({{.begin = 0, .end = n}}, gradients);
    gradients.resize(80, std::numeric_limits<TypeParam>::quiet_NaN());
    tailed.step({{.begin = 0, .end = n}}, gradients);
    EXPECT_TRUE(same_bits(plain.state(), tailed.state())) << table;
  }
}

TYPED_TEST(Update, GoesOnExactlyFromSavedSlotsAndUpdateCount) {
  const int64_t n = 70;
  for (const std::string& table : kTables) {
    Bench<TypeParam> through(table, n), resumed(table, n);
    for (uint32_t k = 0; k < 4; ++k) through.step({{.begin = 0, .end = n}}, k);
    resumed.parameters.assign(through.parameters);
    resumed.optimizer->set_updates(through.optimizer->updates());
    std::vector<OptimizerSlot> from = through.optimizer->slots(), to = resumed.optimizer->slots();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      EXPECT_EQ(from[i].name, to[i].name);
      to[i].values.assign(from[i].values);
    }
    for (uint32_t k = 4; k < 7; ++k) {
      through.step({{.begin = 0, .end = n}}, k);
      resumed.step({{.begin = 0, .end = n}}, k);
    }
    EXPECT_TRUE(same_bits(through.state(), resumed.state())) << table;
  }
}

TYPED_TEST(Update, SkippedStepLeavesNoTrace) {
  const int64_t n = 40;
  for (const std::string& table : kTables) {
    Bench<TypeParam> bench(table, n), clean(table, n);
    const std::vector<UpdateSegment> segments = {{.begin = 0, .end = 13}, {.begin = 13, .end = n}};
    bench.step(segments, 0u);
    clean.step(segments, 0u);
    bench.optimizer->before_gradient(bench.parameters, 0.7, segments);
    bench.optimizer->cancel_gradient(bench.parameters);
    EXPECT_TRUE(same_bits(bench.state(), clean.state())) << table;
    EXPECT_EQ(bench.optimizer->updates(), 1) << table;
    bench.step(segments, 1u);
    clean.step(segments, 1u);
    EXPECT_TRUE(same_bits(bench.state(), clean.state())) << table;
  }
}

TEST(Nesterov, AveragedFormTakesItsGradientAtTheLookAhead) {
  Bench<double> bench("type = 'nesterov'\nmomentum = 0.8", 30);
  bench.step({{.begin = 0, .end = 30}}, 0u);
  const std::vector<double> theta = bench.parameters.to_vector<double>();
  const std::vector<double> v = bench.optimizer->slots().at(0).values.to_vector<double>();
  const std::vector<UpdateSegment> segments = {{.begin = 0, .end = 10, .learning_rate_factor = 3.0},
                                               {.begin = 10, .end = 30}};
  bench.optimizer->before_gradient(bench.parameters, 0.2, segments);
  const std::vector<double> ahead = bench.parameters.to_vector<double>();
  for (size_t i = 0; i < 30; ++i) {
    EXPECT_NEAR(ahead[i], theta[i] - 0.2 * (i < 10 ? 3.0 : 1.0) * 0.8 * v[i], 1e-15) << i;
  }
}

TEST(Nesterov, LookAheadOutOfTurnIsAnError) {
  Bench<float> bench("type = 'nesterov'", 8);
  const std::vector<UpdateSegment> segments = {{.begin = 0, .end = 8}};
  const UpdateContext context{.parameters = bench.parameters,
                              .gradients = bench.parameters.full_like(1.0),
                              .learning_rate = 0.1,
                              .segments = segments};
  EXPECT_THROW(bench.optimizer->update(context), Error);
  bench.optimizer->before_gradient(bench.parameters, 0.1, segments);
  EXPECT_THROW(bench.optimizer->before_gradient(bench.parameters, 0.1, segments), Error);
  bench.optimizer->update(context);
}

TEST(Slots, AreNamedAfterWhatTheyHoldAndStartAtZero) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> expected = {
      {"gradient_descent", {}},
      {"sgd", {}},
      {"momentum", {"velocity"}},
      {"nesterov", {"velocity"}},
      {"adam", {"first_moment", "second_moment"}},
      {"adamw", {"first_moment", "second_moment"}},
      {"nadam", {"first_moment", "second_moment"}},
      {"adagrad", {"square_sum"}},
      {"rmsprop", {"square_average"}},
      {"lion", {"momentum"}},
      {"lamb", {"first_moment", "second_moment"}},
      {"lars", {"velocity"}},
      {"adafactor", {"second_moment"}},
      {"muon", {"first_moment", "second_moment"}},
      {"shampoo", {"first_moment", "second_moment"}},
      {"soap", {"first_moment", "second_moment"}},
      {"kfac", {"first_moment", "second_moment"}},
      {"sophia", {"momentum", "curvature"}},
      {"adahessian", {"first_moment", "second_moment"}},
      {"diagonal", {"previous_parameter", "previous_gradient", "covariance", "variance"}},
  };
  // Minimizers do not update; what they keep has sizes of its own.
  const std::vector<std::pair<std::string, std::vector<std::string>>> minimizers = {
      {"bfgs", {"inverse", "known"}},
      {"lbfgs", {"pairs", "s", "y"}},
      {"newton", {}},
      {"newton_cg", {"forcing", "gradient_norm"}},
      {"natural_gradient", {}},
      {"trust_region", {"radius"}},
      {"levenberg_marquardt", {"diagonal", "factor", "radius"}},
  };
  for (const auto& [type, names] : minimizers) {
    Bench<double> bench("type = '" + type + "'", 5);
    EXPECT_NE(bench.optimizer->minimization(), nullptr);
    std::vector<std::string> found;
    for (const OptimizerSlot& slot : bench.optimizer->slots()) found.push_back(slot.name);
    EXPECT_EQ(found, names) << type;
    EXPECT_THROW(bench.optimizer->update({}), Error);
  }
  ASSERT_EQ(expected.size() + minimizers.size(), optimizer_types().size());
  for (const auto& [type, names] : expected) {
    Bench<double> bench("type = '" + type + "'", 5);
    EXPECT_EQ(bench.optimizer->type(), type);
    EXPECT_EQ(bench.optimizer->full_batch(), type == "gradient_descent");
    const std::vector<OptimizerSlot> slots = bench.optimizer->slots();
    ASSERT_EQ(slots.size(), names.size()) << type;
    for (size_t i = 0; i < slots.size(); ++i) {
      EXPECT_EQ(slots[i].name, names[i]);
      EXPECT_EQ(slots[i].values.to_vector<double>(), std::vector<double>(5, 0.0));
    }
  }
}

TEST(Misuse, ArraysThatDoNotFitAreInternalErrorsAndChangeNothing) {
  for (const std::string& table : kTables) {
    Bench<float> bench(table, 10);
    const std::vector<float> before = bench.state();
    const std::vector<UpdateSegment> whole = {{.begin = 0, .end = 10}};
    auto attempt = [&](const Tensor& parameters, const Tensor& gradients,
                       std::vector<UpdateSegment> segments) {
      bench.optimizer->before_gradient(bench.parameters, 0.1, whole);
      try {
        bench.optimizer->update(
            {.parameters = parameters, .gradients = gradients, .learning_rate = 0.1, .segments = segments});
        ADD_FAILURE() << table;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInternal) << error.what();
      }
      bench.optimizer->cancel_gradient(bench.parameters);
    };
    const Tensor gradients = Tensor::zeros({10}, DType::kF32, test_backend());
    attempt(bench.parameters, Tensor::zeros({9}, DType::kF32, test_backend()), whole);
    attempt(bench.parameters, Tensor::zeros({10}, DType::kF64, test_backend()), whole);
    attempt(Tensor::zeros({11}, DType::kF32, test_backend()), gradients, whole);
    attempt(bench.parameters, gradients, {{.begin = 0, .end = 11}});
    attempt(bench.parameters, gradients, {{.begin = -1, .end = 5}});
    attempt(bench.parameters, gradients, {{.begin = 0, .end = 5}, {.begin = 7, .end = 6}});
    EXPECT_EQ(bench.optimizer->updates(), 0);
    EXPECT_TRUE(same_bits(bench.state(), before)) << table;
  }
}

}  // namespace
}  // namespace lockstep::testing
