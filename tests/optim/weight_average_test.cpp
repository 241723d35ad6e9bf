// Averages follow their equations, and those of PyTorch's AveragedModel, in plain fp64 code.
#include "lockstep/optim/weight_average.h"

#include <gtest/gtest.h>

#include <cmath>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"

namespace lockstep::testing {
namespace {

using Vector = std::vector<double>;
constexpr int64_t kAveragedExtent = 200;

AverageSettings settings_from(const std::string& toml) {
  Configuration configuration = Configuration::parse("[average]\n" + toml + "\n", "test.toml", {});
  Section section = configuration.section("average");
  const AverageSettings settings = read_average(section);
  configuration.reject_unknown();
  return settings;
}

Vector theta(int64_t update, int64_t extent = kAveragedExtent) {
  Vector values(static_cast<size_t>(extent));
  const PhiloxKey key = philox_key(5, RandomPurpose::kTest);
  for (size_t i = 0; i < values.size(); ++i) {
    const PhiloxBlock block = philox(key, {static_cast<uint32_t>(i), static_cast<uint32_t>(update)});
    values[i] = uniform_double(block.r[0], block.r[1]) - 0.5;
  }
  return values;
}

Tensor tensor(const Vector& values) {
  return Tensor::from(Shape{static_cast<int64_t>(values.size())}, values, test_backend());
}

// The average after updates 1 ... n, n = 0 ... 30, of an array whose statistics are `theta(1000 + n)`.
struct Path {
  std::vector<Vector> values, statistics;
};
Path walk(const std::string& toml) {
  WeightAverage average(settings_from(toml), tensor(theta(0)), {{0, kAveragedExtent}},
                        tensor(theta(1000, 7)));
  Path path;
  for (int64_t n = 0; n <= 30; ++n) {
    if (n > 0) average.update(tensor(theta(n)), tensor(theta(1000 + n, 7)), n);
    path.values.push_back(average.values().to_vector<double>());
    if (average.has_statistics()) path.statistics.push_back(average.statistics().to_vector<double>());
  }
  return path;
}

void expect_near(const Vector& found, const Vector& expected, int64_t n) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-14) << "update " << n;
}

TEST(MovingAverage, BeginsWithTheFirstUpdateAndKeepsTheShareOfDecay) {
  const Path path = walk("type = 'ema'\ndecay = 0.8");
  EXPECT_EQ(path.values[0], theta(0));
  EXPECT_EQ(path.values[1], theta(1));
  Vector expected = theta(1), statistics = theta(1001, 7);
  for (int64_t n = 2; n <= 30; ++n) {
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] = 0.8 * expected[i] + (1.0 - 0.8) * theta(n)[i];
      if (i < 7) statistics[i] = 0.8 * statistics[i] + (1.0 - 0.8) * theta(1000 + n, 7)[i];
    }
    expect_near(path.values[static_cast<size_t>(n)], expected, n);
    expect_near(path.statistics[static_cast<size_t>(n)], statistics, n);
  }
}

TEST(MovingAverage, WarmupBoundsTheDecay) {
  const Path path = walk("type = 'ema'\ndecay = 0.5\nwarmup = true");
  Vector expected = theta(1);
  for (int64_t n = 2; n <= 30; ++n) {
    const double entered = static_cast<double>(n - 1),
                 decay = std::min(0.5, (1.0 + entered) / (10.0 + entered));
    EXPECT_EQ(decay < 0.5, n < 9);
    for (size_t i = 0; i < expected.size(); ++i)
      expected[i] = decay * expected[i] + (1.0 - decay) * theta(n)[i];
    expect_near(path.values[static_cast<size_t>(n)], expected, n);
  }
}

TEST(MeanOfWeights, IsTheMeanOfWhatEntered) {
  const Path path = walk("type = 'swa'\nstart = 5\nevery = 3");
  for (int64_t n = 0; n <= 5; ++n)
    EXPECT_EQ(path.values[static_cast<size_t>(n)], theta(n)) << "follows until the start";
  for (int64_t n = 6; n <= 30; ++n) {
    Vector sum(kAveragedExtent, 0.0);
    int64_t count = 0;
    for (int64_t m = 5; m <= n; m += 3, ++count) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += theta(m)[i];
    }
    for (double& value : sum) value /= static_cast<double>(count);
    expect_near(path.values[static_cast<size_t>(n)], sum, n);
  }
  EXPECT_TRUE(path.statistics.empty());
}

TEST(WeightAverage, OfPartsIsThatOfTheWholeBitForBit) {
  for (const std::string toml : {"type = 'ema'\ndecay = 0.9", "type = 'swa'"}) {
    const std::vector<ElementRange> first = {{0, 3}, {70, 131}}, second = {{3, 70}, {131, kAveragedExtent}};
    WeightAverage whole(settings_from(toml), tensor(theta(0)), {{0, kAveragedExtent}}, tensor({}));
    WeightAverage a(settings_from(toml), tensor(theta(0)), first, tensor({}));
    WeightAverage b(settings_from(toml), tensor(theta(0)), second, tensor({}));
    EXPECT_EQ(a.values().elements() + b.values().elements(), kAveragedExtent);
    for (int64_t n = 1; n < 9; ++n) {
      for (WeightAverage* average : {&whole, &a, &b}) average->update(tensor(theta(n)), tensor({}), n);
    }
    Tensor together = tensor(Vector(kAveragedExtent, NAN)), expected = tensor(Vector(kAveragedExtent, NAN));
    a.write(together);
    b.write(together);
    whole.write(expected);
    EXPECT_EQ(together.to_vector<double>(), expected.to_vector<double>());
    EXPECT_NE(together.to_vector<double>(), theta(8));
  }
}

TEST(AverageConfiguration, BadValuesAreUsageErrorsThatNameTheKey) {
  for (const auto& [toml, message] : std::vector<std::pair<std::string, std::string>>{
           {"type = 'mean'", "average.type"},
           {"type = 'ema'\ndecay = 1.0", "average.decay: must be < 1"},
           {"type = 'ema'\ndecay = -0.1", "average.decay"},
           {"type = 'ema'\ndecay = nan", "average.decay"},
           {"type = 'ema'\nwarmup = 3", "average.warmup"},
           {"type = 'swa'\nstart = 0", "average.start"},
           {"type = 'swa'\nstart = 1.5", "average.start"},
           {"type = 'swa'\nevery = 0", "average.every"},
           {"type = 'swa'\nevery = -4", "average.every"},
           {"type = 'swa'\ndecay = 0.9", "average.decay"},
           {"type = 'swa'\nwarmup = true", "average.warmup"},
           {"decay = 0.9", "average.decay"},
           {"start = 9", "average.start"},
           {"type = 'swa'\ndecays = 0.9", "average.decays"}}) {
    try {
      settings_from(toml);
      ADD_FAILURE() << toml;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << toml << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(settings_from("").type, AverageSettings::Type::kNone);
}

}  // namespace
}  // namespace lockstep::testing
