// Optimizers that look at whole parameters: their equations in plain fp64 code, layouts, segments, state.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "device.h"
#include "lockstep/core/error.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "optim/problems.h"

namespace lockstep::testing {
namespace {

constexpr int64_t kWholeSteps = 100;

double norm_of(const Vector& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

// One update of a parameter: (theta, g, eta, k) -> theta; k counts from 1.
using Step = std::function<Vector(const Vector& theta, const Vector& g, double eta, int64_t k)>;

void expect_path(const std::string& toml, const Problem& problem, double rate, Step step) {
  // A rate that changes every step: nobody may use the one before.
  const auto eta = [&](int64_t update) { return rate * (1.0 - 0.005 * static_cast<double>(update)); };
  const std::vector<Vector> path = walk<double>(*optimizer_from(toml), problem, eta, kWholeSteps);
  Vector theta = problem.start;
  for (int64_t k = 1; k <= kWholeSteps; ++k) {
    theta = step(theta, problem.gradient(theta), eta(k - 1), k);
    for (size_t i = 0; i < theta.size(); ++i) {
      ASSERT_NEAR(path[static_cast<size_t>(k)][i], theta[i], 1e-10)
          << toml << "\n"
          << problem.name << problem.shape.to_string() << " step " << k << " element " << i;
    }
  }
  double moved = 0.0;
  for (size_t i = 0; i < theta.size(); ++i) moved += std::abs(theta[i] - problem.start[i]);
  EXPECT_GT(moved, 0.01) << "the path must have led somewhere: " << toml;
}

std::vector<Problem> problems() {
  std::vector<Problem> all = {ill_conditioned_quadratic(), ill_conditioned_quadratic(),
                              ill_conditioned_quadratic(), logistic_regression()};
  all[1].shape = {2, 3};
  all[2].shape = {3, 2};
  return all;
}

struct Moments {
  Vector m, v;
  // m^ / (sqrt(v^) + epsilon)
  Vector direction(const Vector& g, double b1, double b2, double epsilon, int64_t k) {
    m.resize(g.size());
    v.resize(g.size());
    Vector r(g.size());
    for (size_t i = 0; i < g.size(); ++i) {
      m[i] = b1 * m[i] + (1 - b1) * g[i];
      v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i];
      r[i] = m[i] / (1 - std::pow(b1, k)) / (std::sqrt(v[i] / (1 - std::pow(b2, k))) + epsilon);
    }
    return r;
  }
};

Step lamb(double b1, double b2, double epsilon, double decay) {
  return [=, moments = Moments()](const Vector& theta, const Vector& g, double eta, int64_t k) mutable {
    Vector r = moments.direction(g, b1, b2, epsilon, k), next = theta;
    for (size_t i = 0; i < r.size(); ++i) r[i] += decay * theta[i];
    const double ratio = norm_of(theta) > 0 && norm_of(r) > 0 ? norm_of(theta) / norm_of(r) : 1.0;
    for (size_t i = 0; i < r.size(); ++i) next[i] -= eta * ratio * r[i];
    return next;
  };
}

TEST(Lamb, FollowsThePaper) {
  for (const Problem& problem : problems()) {
    expect_path("type = 'lamb'", problem, 0.01, lamb(0.9, 0.999, 1e-6, 0.01));
    expect_path("type = 'lamb'\nbeta1 = 0.8\nbeta2 = 0.99\nepsilon = 1e-3\nweight_decay = 0.2", problem, 0.02,
                lamb(0.8, 0.99, 1e-3, 0.2));
  }
}

Step lars(double momentum, double trust, double decay) {
  return [=, v = Vector()](const Vector& theta, const Vector& g, double eta, int64_t) mutable {
    v.resize(g.size());
    const double w = norm_of(theta), n = norm_of(g);
    const double local = w > 0 && n > 0 ? trust * w / (n + decay * w) : 1.0;
    Vector next = theta;
    for (size_t i = 0; i < g.size(); ++i) {
      v[i] = momentum * v[i] + eta * local * (g[i] + decay * theta[i]);
      next[i] -= v[i];
    }
    return next;
  };
}

TEST(Lars, FollowsThePaper) {
  for (const Problem& problem : problems()) {
    expect_path("type = 'lars'", problem, 1.0, lars(0.9, 1e-3, 0.0));
    expect_path("type = 'lars'\nmomentum = 0.5\ntrust = 0.02\nweight_decay = 0.1", problem, 0.5,
                lars(0.5, 0.02, 0.1));
  }
}

// The quintic iteration on x (rows, columns), with the products X X' written out.
Vector newton_schulz(Vector x, size_t rows, size_t columns, int steps) {
  const double n = std::max(norm_of(x), 1e-7);
  for (double& value : x) value /= n;
  for (int step = 0; step < steps; ++step) {
    Vector gram(rows * rows), square(rows * rows), next(x.size());
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < rows; ++j)
        for (size_t c = 0; c < columns; ++c) gram[i * rows + j] += x[i * columns + c] * x[j * columns + c];
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < rows; ++j)
        for (size_t l = 0; l < rows; ++l) square[i * rows + j] += gram[i * rows + l] * gram[l * rows + j];
    for (size_t i = 0; i < rows; ++i)
      for (size_t c = 0; c < columns; ++c) {
        double sum = 3.4445 * x[i * columns + c];
        for (size_t j = 0; j < rows; ++j) {
          sum += (-4.7750 * gram[i * rows + j] + 2.0315 * square[i * rows + j]) * x[j * columns + c];
        }
        next[i * columns + c] = sum;
      }
    x = next;
  }
  return x;
}

Step muon(size_t rows, size_t columns, double momentum, bool nesterov, int steps, double scale,
          double decay) {
  return [=, b = Vector()](const Vector& theta, const Vector& g, double eta, int64_t) mutable {
    b.resize(g.size());
    Vector u = g;
    for (size_t i = 0; i < g.size(); ++i) {
      b[i] = momentum * b[i] + g[i];
      u[i] = nesterov ? g[i] + momentum * b[i] : b[i];
    }
    const Vector x = newton_schulz(u, rows, columns, steps);
    Vector next = theta;
    for (size_t i = 0; i < g.size(); ++i) next[i] = (1 - eta * decay) * theta[i] - eta * scale * x[i];
    return next;
  };
}

Step adamw(double b1, double b2, double epsilon, double decay, double factor) {
  return [=, moments = Moments()](const Vector& theta, const Vector& g, double eta, int64_t k) mutable {
    const Vector r = moments.direction(g, b1, b2, epsilon, k);
    Vector next = theta;
    for (size_t i = 0; i < r.size(); ++i)
      next[i] = (1 - eta * factor * decay) * theta[i] - eta * factor * r[i];
    return next;
  };
}

TEST(Muon, FollowsThePaperOnMatricesAndAdamWOnTheRest) {
  Problem wide = ill_conditioned_quadratic(), tall = wide, convolution = wide;
  wide.shape = {2, 3};
  tall.shape = {3, 2};
  convolution.shape = {2, 3, 1, 1};
  expect_path("type = 'muon'", wide, 0.02, muon(2, 3, 0.95, true, 5, std::sqrt(1.5), 0.1));
  expect_path("type = 'muon'", tall, 0.02, muon(3, 2, 0.95, true, 5, 1.0, 0.1));
  expect_path("type = 'muon'", convolution, 0.02, muon(2, 3, 0.95, true, 5, 1.0, 0.1));
  expect_path(
      "type = 'muon'\nmomentum = 0.8\nnesterov = false\nnewton_schulz_steps = 3\nrate_scale = 'match_adamw'\n"
      "weight_decay = 0.5",
      tall, 0.02, muon(3, 2, 0.8, false, 3, 0.2 * std::sqrt(3.0), 0.5));
  expect_path("type = 'muon'", logistic_regression(), 0.02, adamw(0.9, 0.999, 1e-8, 0.1, 1.0));
  expect_path("type = 'muon'\nadamw = ['th*']\nadamw_learning_rate_factor = 0.5\nbeta1 = 0.8\nepsilon = 1e-4",
              wide, 0.02, adamw(0.8, 0.999, 1e-4, 0.1, 0.5));
}

TEST(Adafactor, SeesMoreThanTwoAxesAsAMatrixOfTheFirstAndTheRest) {
  Problem matrix = ill_conditioned_quadratic(), convolution = matrix;
  matrix.shape = {2, 3};
  convolution.shape = {2, 1, 3, 1};
  const auto rate = [](int64_t) { return 0.05; };
  EXPECT_EQ(walk<double>(*optimizer_from("type = 'adafactor'"), matrix, rate, 20),
            walk<double>(*optimizer_from("type = 'adafactor'"), convolution, rate, 20));
}

// ---- what all of them promise
// ----------------------------------------------------------------------------------

const std::vector<std::string> kWholeTables = {
    "type = 'lamb'\nweight_decay = 0.1",
    "type = 'lars'\nweight_decay = 0.1",
    "type = 'adafactor'\nweight_decay = 0.1",
    "type = 'muon'\nweight_decay = 0.1",
    "type = 'muon'\nnesterov = false\nweight_decay = 0.1",
    "type = 'shampoo'\nblock = 4\nroot_every = 2\nweight_decay = 0.1",
    "type = 'soap'\nbasis_every = 1\nweight_decay = 0.1",
};

// A matrix, a vector, a convolution and a scalar, with gaps between them.
const std::vector<ParameterEntry> kWholeParameters = {
    {.name = "matrix", .shape = {5, 9}, .offset = 0, .initializer = {}},
    {.name = "vector", .shape = {7}, .offset = 64, .initializer = {}},
    {.name = "convolution", .shape = {6, 2, 2, 3}, .offset = 128, .initializer = {}},
    {.name = "scalar", .shape = {}, .offset = 256, .initializer = {}},
};
constexpr int64_t kWholeExtent = 320;

template <class T>
std::vector<T> random_values(uint32_t stream) {
  std::vector<T> values(kWholeExtent, T{0});
  const PhiloxKey key = philox_key(7, RandomPurpose::kTest);
  for (const ParameterEntry& entry : kWholeParameters) {
    for (int64_t i = entry.offset; i < entry.offset + entry.shape.elements(); ++i) {
      values[static_cast<size_t>(i)] =
          static_cast<T>(uniform_float(philox(key, {static_cast<uint32_t>(i), stream}).r[0]) - 0.5f);
    }
  }
  return values;
}

template <class T>
struct WholeBench {
  std::unique_ptr<Optimizer> optimizer;
  Tensor parameters = Tensor::from(Shape{kWholeExtent}, random_values<T>(0), test_backend());

  explicit WholeBench(const std::string& toml) : optimizer(optimizer_from(toml)) {
    optimizer->allocate(kWholeParameters, kWholeExtent, {{0, kWholeExtent}}, dtype_of<T>, test_backend());
  }
  void step(const std::vector<UpdateSegment>& segments, uint32_t number, double rate = 0.1,
            double gradients_times = 1.0, double scale = 1.0) {
    std::vector<T> gradients = random_values<T>(number + 1);
    for (T& g : gradients) g = static_cast<T>(g * gradients_times);
    optimizer->update({.parameters = parameters,
                       .gradients = Tensor::from(Shape{kWholeExtent}, gradients, test_backend()),
                       .gradient_scale = scale,
                       .learning_rate = rate,
                       .segments = segments});
  }
  std::vector<T> state() {
    std::vector<T> values = parameters.to_vector<T>();
    for (const OptimizerSlot& slot : optimizer->slots()) {
      const std::vector<T> more = slot.values.template to_vector<T>();
      values.insert(values.end(), more.begin(), more.end());
    }
    return values;
  }
};

const std::vector<UpdateSegment> kWhole = {{.begin = 0, .end = kWholeExtent}};

template <class T>
class WholeParameters : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(WholeParameters, Precisions);

TYPED_TEST(WholeParameters, SplitBetweenParametersGivesTheSameBits) {
  for (const std::string& table : kWholeTables) {
    WholeBench<TypeParam> whole(table), split(table);
    for (uint32_t k = 0; k < 3; ++k) {
      whole.step(kWhole, k);
      split.step({{.begin = 100, .end = 256}, {.begin = 256, .end = 320}, {.begin = 0, .end = 100}}, k);
    }
    EXPECT_EQ(whole.state(), split.state()) << table;
    EXPECT_EQ(split.optimizer->updates(), 3);
    EXPECT_TRUE(split.optimizer->whole_parameters());
  }
}

TYPED_TEST(WholeParameters, ThreadsDoNotChangeTheBits) {
  for (const std::string& table : kWholeTables) {
    WholeBench<TypeParam> one(table), two(table);
    for (uint32_t k = 0; k < 2; ++k) one.step(kWhole, k);
    set_threads(2);
    for (uint32_t k = 0; k < 2; ++k) two.step(kWhole, k);
    set_threads(1);
    EXPECT_EQ(one.state(), two.state()) << table;
  }
}

TYPED_TEST(WholeParameters, GapsStayZero) {
  for (const std::string& table : kWholeTables) {
    WholeBench<TypeParam> bench(table);
    for (uint32_t k = 0; k < 3; ++k) bench.step(kWhole, k);
    const std::vector<TypeParam> after = bench.parameters.template to_vector<TypeParam>();
    const std::vector<TypeParam> inside = random_values<TypeParam>(0);
    for (size_t i = 0; i < after.size(); ++i) EXPECT_EQ(after[i] == 0, inside[i] == 0) << table << " " << i;
  }
}

TYPED_TEST(WholeParameters, ParametersAndGradientsOfZeroStayFinite) {
  for (const std::string& table : kWholeTables) {
    WholeBench<TypeParam> bench(table);
    bench.parameters.assign(bench.parameters.full_like(0.0));
    bench.step(kWhole, 0, 0.1, 0.0);
    const std::vector<TypeParam> state = bench.state();
    // SOAP's bases are something from the first step on.
    const auto all =
        table.find("soap") == std::string::npos ? std::ssize(state) : std::ptrdiff_t{kWholeExtent};
    EXPECT_TRUE(std::all_of(state.begin(), state.begin() + all, [](TypeParam x) { return x == 0; })) << table;
    bench.step(kWhole, 1);
    for (TypeParam value : bench.state()) EXPECT_TRUE(std::isfinite(value)) << table;
    EXPECT_NE(bench.parameters.template to_vector<TypeParam>()[0], TypeParam{0})
        << "a parameter can leave zero: " << table;
  }
}

TYPED_TEST(WholeParameters, GradientScaleAppliesToTheGradientOnly) {
  for (const std::string& table : kWholeTables) {
    WholeBench<TypeParam> plain(table), scaled(table);
    for (uint32_t k = 0; k < 3; ++k) {
      plain.step(kWhole, k);
      scaled.step(kWhole, k, 0.1, 1024.0, 1.0 / 1024);
    }
    EXPECT_EQ(plain.state(), scaled.state()) << table;
  }
}

TYPED_TEST(WholeParameters, SegmentsDecideOnDecayAndRate) {
  for (const std::string& table : kWholeTables) {
    WholeBench<TypeParam> mixed(table), decayed(table), rated(table);
    WholeBench<TypeParam> free(table.substr(0, table.find("weight_decay")) + "weight_decay = 0");
    for (uint32_t k = 0; k < 3; ++k) {
      mixed.step({{.begin = 0, .end = 64},
                  {.begin = 64, .end = 128, .weight_decay = false},
                  {.begin = 128, .end = 320, .learning_rate_factor = 0.5}},
                 k);
      decayed.step(kWhole, k);
      free.step(kWhole, k);
      rated.step(kWhole, k, 0.1 * 0.5);
    }
    const auto mix = mixed.parameters.template to_vector<TypeParam>();
    const auto on = decayed.parameters.template to_vector<TypeParam>();
    const auto off = free.parameters.template to_vector<TypeParam>();
    const auto slow = rated.parameters.template to_vector<TypeParam>();
    for (size_t i = 0; i < mix.size(); ++i)
      EXPECT_EQ(mix[i], i < 64 ? on[i] : i < 128 ? off[i] : slow[i]) << table << i;
    EXPECT_NE(on, off) << table;
    EXPECT_NE(on, slow) << table;
  }
}

TYPED_TEST(WholeParameters, GoOnExactlyFromSavedSlotsAndUpdateCount) {
  for (const std::string& table : kWholeTables) {
    WholeBench<TypeParam> through(table), resumed(table);
    for (uint32_t k = 0; k < 4; ++k) through.step(kWhole, k);
    resumed.parameters.assign(through.parameters);
    resumed.optimizer->set_updates(through.optimizer->updates());
    std::vector<OptimizerSlot> from = through.optimizer->slots(), to = resumed.optimizer->slots();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      // Entry by entry, as checkpoints do.
      ASSERT_FALSE(from[i].entries.empty());
      for (const SlotEntry& entry : from[i].entries) {
        to[i].values.view(entry.shape, entry.offset).assign(from[i].values.view(entry.shape, entry.offset));
      }
    }
    for (uint32_t k = 4; k < 7; ++k) {
      through.step(kWhole, k);
      resumed.step(kWhole, k);
    }
    EXPECT_EQ(through.state(), resumed.state()) << table;
  }
}

TEST(WholeParameters, SegmentThatCutsAParameterIsAnErrorAndChangesNothing) {
  for (const std::string& table : kWholeTables) {
    WholeBench<double> bench(table);
    const std::vector<double> before = bench.state();
    for (const std::vector<UpdateSegment>& segments :
         {std::vector<UpdateSegment>{{.begin = 0, .end = 44}, {.begin = 44, .end = 320}},
          std::vector<UpdateSegment>{{.begin = 0, .end = 190}},
          std::vector<UpdateSegment>{{.begin = 0, .end = 321}}}) {
      try {
        bench.step(segments, 0);
        ADD_FAILURE() << table;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInternal) << error.what();
      }
    }
    EXPECT_EQ(bench.state(), before) << table;
    EXPECT_EQ(bench.optimizer->updates(), 0);
  }
}

TEST(Adafactor, KeepsARowAndAColumnOfAMatrix) {
  WholeBench<float> bench("type = 'adafactor'");
  const std::vector<OptimizerSlot> slots = bench.optimizer->slots();
  ASSERT_EQ(slots.size(), 3u);
  EXPECT_EQ(slots[0].name, "row_moment");
  EXPECT_EQ(slots[0].values.elements(), 5 + 6);
  EXPECT_EQ(slots[1].name, "column_moment");
  EXPECT_EQ(slots[1].values.elements(), 9 + 12);
  EXPECT_EQ(slots[2].name, "second_moment");
  EXPECT_EQ(slots[2].values.elements(), 7 + 1);
}

// ---- factors that have no roots, and gradients whose squares are no numbers

const std::vector<std::string> kPreconditioned = {
    "type = 'shampoo'\nroot_every = 1", "type = 'shampoo'\nroot_every = 1\ngrafting = 'none'\nbeta2 = 1",
    "type = 'soap'\nbasis_every = 1"};

// Parameters of `shape` after an update for each gradient.
template <class T>
std::vector<T> after(Optimizer& optimizer, const Shape& shape, const std::vector<std::vector<T>>& gradients) {
  const int64_t n = shape.elements();
  Tensor parameters = Tensor::zeros({n}, dtype_of<T>, test_backend());
  const std::vector<UpdateSegment> segments = {{.begin = 0, .end = n}};
  for (const std::vector<T>& gradient : gradients) {
    optimizer.update({.parameters = parameters,
                      .gradients = Tensor::from(Shape{n}, gradient, test_backend()),
                      .learning_rate = 0.1,
                      .segments = segments});
  }
  return parameters.to_vector<T>();
}

TYPED_TEST(WholeParameters, SingularFactorsAndHugeGradientsLeaveNumbers) {
  using T = TypeParam;
  const T huge = std::is_same_v<T, double> ? static_cast<T>(1e300) : static_cast<T>(1e30);
  for (const std::string& table : kPreconditioned) {
    // Of rank one, with zeros in between; the second gradient, whose square overflows, is not gathered.
    const std::vector<std::vector<T>> gradients = {
        {1, 2, 0, 2, 4, 0}, {huge, 0, 0, 0, -huge, 0}, {0, 0, 0, 0, 0, 0}, {1, 2, 0, 2, 4, 0}};
    const auto optimizer = optimizer_from(table);
    optimizer->allocate(one_parameter({2, 3}), 6, {{0, 6}}, dtype_of<T>, test_backend());
    for (const T value : after<T>(*optimizer, {2, 3}, gradients)) EXPECT_TRUE(std::isfinite(value)) << table;
    for (const OptimizerSlot& slot : optimizer->slots()) {
      if (slot.name == "second_moment") continue;  // infinite, as Adam's
      for (const T value : slot.values.template to_vector<T>())
        EXPECT_TRUE(std::isfinite(value)) << table << slot.name;
    }
    // A matrix of one element steps against its gradient.
    const auto single = optimizer_from(table);
    single->allocate(one_parameter({1, 1}), 1, {{0, 1}}, dtype_of<T>, test_backend());
    EXPECT_LT(after<T>(*single, {1, 1}, {{0.5}, {0.5}, {0.5}})[0], T{0}) << table;
  }
}

TEST(Shampoo, KeepsTheRootsBeforeWhereThereAreNone) {
  const auto optimizer = optimizer_from("type = 'shampoo'\nroot_every = 1\ngrafting = 'none'");
  optimizer->allocate(one_parameter({2, 2}), 4, {{0, 4}}, DType::kF64, test_backend());
  after<double>(*optimizer, {2, 2}, {{1, 0, 0, 2}});
  std::map<std::string, Tensor> slots;
  for (const OptimizerSlot& slot : optimizer->slots()) slots[slot.name] = slot.values;
  const std::vector<double> before = slots["left_root"].to_vector<double>();
  EXPECT_NE(before[0], 0.0);
  slots["left"].assign(slots["left"].full_like(std::numeric_limits<double>::quiet_NaN()));
  for (const double value : after<double>(*optimizer, {2, 2}, {{1, 0, 0, 2}}))
    EXPECT_TRUE(std::isfinite(value));
  EXPECT_EQ(slots["left_root"].to_vector<double>(), before);
  EXPECT_NE(slots["right_root"].to_vector<double>(), before);
}

}  // namespace
}  // namespace lockstep::testing
