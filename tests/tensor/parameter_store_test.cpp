// The parameter store: layout, initial values as functions of (seed, name), sections.
#include "lockstep/tensor/parameter_store.h"

#include <gtest/gtest.h>

#include <cmath>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/math/normal.h"

namespace lockstep {
namespace {

Initializer normal(double deviation) {
  return {Initializer::Kind::kNormal, 1, 1, deviation};
}

TEST(ParameterStore, LaysParametersOutAlignedWithZeroGaps) {
  ParameterStore store;
  store.declare_parameter("a", {3}, {Initializer::Kind::kOnes});
  store.declare_parameter("b", {65}, {Initializer::Kind::kOnes});
  const int c = store.declare_parameter("c", {2, 2}, {Initializer::Kind::kConstant, 1, 1, 4.0});
  store.allocate(DType::kF32, test_backend(), 1);
  EXPECT_EQ(store.parameters()[1].offset, 64);
  EXPECT_EQ(store.parameters()[2].offset, 192);
  EXPECT_EQ(store.parameter_extent(), 256);
  EXPECT_EQ(store.parameter_count(), 72);
  const std::vector<float> flat = store.values().to_vector<float>();
  for (int64_t i = 3; i < 64; ++i) EXPECT_EQ(flat[static_cast<size_t>(i)], 0.0f);
  EXPECT_EQ(store.parameter(c).to_vector<float>(), std::vector<float>(4, 4.0f));
}

TEST(ParameterStore, InitialValuesDependOnSeedAndNameAlone) {
  const auto drawn = [](uint64_t seed, const std::vector<std::string>& names, const std::string& wanted) {
    ParameterStore store;
    int index = -1;
    for (const std::string& name : names) {
      const int i = store.declare_parameter(name, {40}, normal(1.0));
      if (name == wanted) index = i;
    }
    store.allocate(DType::kF64, test_backend(), seed);
    return store.parameter(index).to_vector<double>();
  };
  EXPECT_EQ(drawn(1, {"x"}, "x"), drawn(1, {"other", "x", "more"}, "x"));
  EXPECT_NE(drawn(1, {"x"}, "x"), drawn(2, {"x"}, "x"));
  EXPECT_NE(drawn(1, {"x"}, "x"), drawn(1, {"y"}, "y"));
}

// Values are drawn in pieces, by all threads; each is a function of its own number.
TEST(ParameterStore, EveryDrawIsThatOfItsNumberInArraysOfAnySizeOnAnyNumberOfThreads) {
  using Kind = Initializer::Kind;
  constexpr int64_t kLarge = (int64_t{1} << 21) + 3;  // more than two pieces
  const PhiloxKey key = philox_key(9, RandomPurpose::kInitialization);
  for (const int threads : {1, 3}) {
    set_threads(threads);
    ParameterStore store;
    const int large = store.declare_parameter("large", {kLarge}, {Kind::kXavierNormal, 30, 20, 2.0});
    const int small = store.declare_parameter("small", {5}, {Kind::kUniform, 1, 1, 0.25});
    const int one = store.declare_parameter("one", {1}, normal(1.0));
    const int none = store.declare_parameter("none", {0}, normal(1.0));
    store.allocate(DType::kF64, test_backend(), 9);
    const auto block = [&](const std::string& name, int64_t i) {
      const uint64_t hash = stable_hash(name);
      return philox(key, {static_cast<uint32_t>(i / 2), 0, static_cast<uint32_t>(hash),
                          static_cast<uint32_t>(hash >> 32)});
    };
    const std::vector<double> drawn = store.parameter(large).to_vector<double>();
    const double spread = 2.0 * std::sqrt(2.0 / 50.0);
    int64_t wrong = 0;
    for (int64_t i = 0; i < kLarge; i += i < 9 || i > kLarge - 9 ? 1 : 4093) {
      const double expected = spread * math::portable::standard_normal(block("large", i), i % 2 != 0);
      wrong += drawn[static_cast<size_t>(i)] != expected;
    }
    EXPECT_EQ(wrong, 0);
    const std::vector<double> few = store.parameter(small).to_vector<double>();
    for (int64_t i = 0; i < 5; ++i) {
      const PhiloxBlock b = block("small", i);
      const double u = i % 2 == 0 ? uniform_double(b.r[0], b.r[1]) : uniform_double(b.r[2], b.r[3]);
      EXPECT_EQ(few[static_cast<size_t>(i)], 0.25 * (2.0 * u - 1.0)) << i;
    }
    EXPECT_EQ(store.parameter(one).to_vector<double>()[0],
              math::portable::standard_normal(block("one", 0), false));
    EXPECT_TRUE(store.parameter(none).to_vector<double>().empty());
  }
  set_threads(1);
}

TEST(ParameterStore, NormalDrawsHaveTheirMoments) {
  ParameterStore store;
  store.declare_parameter("x", {100000}, normal(2.0));
  store.allocate(DType::kF64, test_backend(), 5);
  double sum = 0.0, squares = 0.0, fourths = 0.0;
  for (double v : store.parameter(0).to_vector<double>()) {
    sum += v;
    squares += v * v;
    fourths += v * v * v * v;
  }
  EXPECT_NEAR(sum / 1e5, 0.0, 0.03);
  EXPECT_NEAR(squares / 1e5, 4.0, 0.08);
  EXPECT_NEAR(fourths / 1e5, 48.0, 3.0);
}

TEST(ParameterStore, StatisticsFollowTheParametersInTheGradient) {
  ParameterStore store;
  store.declare_parameter("w", {10}, {Initializer::Kind::kZeros});
  const int running = store.declare_statistic("running_variance", {4}, 1.0, 0.1);
  store.allocate(DType::kF32, test_backend(), 1);
  EXPECT_EQ(store.gradient_extent(), store.parameter_extent() + store.statistic_extent());
  EXPECT_EQ(store.statistic(running).to_vector<float>(), std::vector<float>(4, 1.0f));
}

// They would be found when the first checkpoint is written.
TEST(ParameterStore, RefusesWhatNoCheckpointCanHold) {
  const auto refused = [](const std::string& name, const std::string& rule) {
    SCOPED_TRACE(name);
    ParameterStore store;
    store.declare_parameter("head.w", {2}, {});
    store.declare_parameter("a/b", {2}, {});
    for (const bool statistic : {false, true}) {
      if (statistic) store.declare_statistic("a/b", {2}, 0.0, 0.1);
      try {
        statistic ? store.declare_statistic(name, {2}, 0.0, 0.1) : store.declare_parameter(name, {2}, {});
        ADD_FAILURE() << "accepted";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kUsage);
        EXPECT_NE(std::string(error.what()).find(rule), std::string::npos) << error.what();
      }
    }
  };
  for (const std::string& name : {std::string(), std::string("."), std::string("a//c"), std::string("/c"),
                                  std::string("c/"), std::string("c/./d"), std::string("c\0d", 3)})
    refused(name, "cannot have the name '" + std::string(name.c_str()));
  refused("a", "cannot have both 'a/b' and 'a'");
  refused("a/b/c", "cannot have both 'a/b' and 'a/b/c'");
  ParameterStore store;
  for (const char* name : {"a", "a.b", "ab", "b/c", "b/d", "..", "blank and\nbreak"})
    EXPECT_NO_THROW(store.declare_parameter(name, {2}, {})) << name;
}

TEST(ParameterStore, RefusesANameTwice) {
  ParameterStore store;
  store.declare_parameter("w", {1}, {});
  EXPECT_THROW(store.declare_parameter("w", {2}, {}), Error);
}

}  // namespace
}  // namespace lockstep
