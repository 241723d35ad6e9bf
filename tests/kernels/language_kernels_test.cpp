// RMS norm, rotary positions, SwiGLU and first keys against their formulas in fp64, in every type, on any
// number of threads; on a GPU against the CPU.
#include <functional>

#include "kernels/arrays.h"
#include "kernels/parity.h"

namespace lockstep::test {
namespace {

using Call = std::function<void(Backend&, Arrays&)>;

// All results of a call on the CPU, one behind the other.
std::vector<double> computed(const Call& call) {
  Arrays arrays(cpu_backend(), 0);
  call(cpu_backend(), arrays);
  std::vector<double> values;
  for (const Arrays::Result& result : arrays.results())
    values.insert(values.end(), result.values.begin(), result.values.end());
  return values;
}

// On the CPU against `expected`, within so many units in the last place of max(|expected|, 1); on a GPU
// against the CPU.
template <class S>
void expect_formula(const std::string& name, double units, const Call& call,
                    const std::vector<double>& expected) {
  const double epsilon = epsilon_of(dtype_of<S>);
  if (test_device() != "cpu") return expect_parity(name, {units, units * epsilon}, call);
  SCOPED_TRACE(name);
  const std::vector<double> found = on_any_threads([&] { return computed(call); });
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], units * epsilon * std::fmax(std::fabs(expected[i]), 1.0)) << i;
  }
}

template <class S>
class LanguageKernels : public ::testing::Test {};
struct RowExtents {
  int64_t rows, columns;
};
using StoredTypes = ::testing::Types<double, float, BFloat16, Float16>;
TYPED_TEST_SUITE(LanguageKernels, StoredTypes);

TYPED_TEST(LanguageKernels, RmsNormIsTheFormula) {
  using S = TypeParam;
  using T = Accumulation<S>;
  for (const RowExtents& e : {RowExtents{1, 1},
                              {5, 7},
                              {3, 64},
                              {40, 96},
                              {2, 1000},
                              {2, 1536},
                              {1, 4100},
                              {1, 9000},
                              {1, 16400},
                              {0, 4}}) {
    const int64_t rows = e.rows, columns = e.columns;
    const int64_t n = rows * columns;
    const std::vector<S> x = random_values<S>(n, 1), dy = random_values<S>(n, 2);
    const std::vector<T> gamma = random_values<T>(columns, 3), rstd = random_values<T>(rows, 4, 0.5, 1.5);
    std::vector<double> y, inverses, dx, dgamma(static_cast<size_t>(columns));
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0, product = 0;
      const double inverse = double(rstd[static_cast<size_t>(r)]);
      const auto at = [&](int64_t c) { return static_cast<size_t>(r * columns + c); };
      const auto scale = [&](int64_t c) { return double(gamma[static_cast<size_t>(c)]); };
      for (int64_t c = 0; c < columns; ++c) {
        squares += double(x[at(c)]) * double(x[at(c)]);
        product += double(dy[at(c)]) * scale(c) * double(x[at(c)]) * inverse;
        dgamma[static_cast<size_t>(c)] += double(dy[at(c)]) * double(x[at(c)]) * inverse;
      }
      inverses.push_back(1.0 / std::sqrt(squares / double(columns) + 0.25));
      for (int64_t c = 0; c < columns; ++c) {
        y.push_back(double(x[at(c)]) * inverses.back() * scale(c));
        dx.push_back(inverse *
                     (double(dy[at(c)]) * scale(c) - double(x[at(c)]) * inverse * product / double(columns)));
      }
    }
    const std::string name = std::to_string(rows) + " x " + std::to_string(columns);
    std::vector<double> expected = y;
    expected.insert(expected.end(), inverses.begin(), inverses.end());
    expect_formula<S>(
        "forward " + name, sizeof(S) == 2 ? 1.0 : 16.0,
        [&](Backend& backend, Arrays& arrays) {
          S* const to = arrays.output<S>(n);
          backend.norm({.kind = NormArguments::Kind::kRms,
                        .dtype = dtype_of<S>,
                        .narrow = dtype_of<S>,
                        .rows = rows,
                        .columns = columns,
                        .gamma = arrays.input(gamma),
                        .epsilon = 0.25},
                       arrays.input(x), nullptr, nullptr, nullptr, to, nullptr, arrays.output<T>(rows));
        },
        expected);
    expected = dx;
    expected.insert(expected.end(), dgamma.begin(), dgamma.end());
    expect_formula<S>(
        "backward " + name, sizeof(S) == 2 ? 1.0 : 64.0,
        [&](Backend& backend, Arrays& arrays) {
          S* const to = arrays.output<S>(n);
          backend.norm_backward({.kind = NormArguments::Kind::kRms,
                                 .dtype = dtype_of<S>,
                                 .narrow = dtype_of<S>,
                                 .rows = rows,
                                 .columns = columns,
                                 .gamma = arrays.input(gamma)},
                                arrays.input(x), nullptr, arrays.input(rstd), arrays.input(dy), nullptr, to,
                                nullptr, arrays.output<T>(columns), nullptr);
        },
        expected);
  }
}

TYPED_TEST(LanguageKernels, RotaryTurnsPairsAndLeavesTheOtherHeads) {
  using S = TypeParam;
  using T = Accumulation<S>;
  struct Case {
    int64_t samples, positions, heads, turned, size;
  };
  for (const Case& c :
       {Case{1, 1, 1, 1, 2}, {2, 3, 4, 3, 6}, {2, 5, 3, 2, 64}, {1, 7, 6, 6, 32}, {1, 3, 40, 30, 48}}) {
    const int64_t rows = c.samples * c.positions, half = c.size / 2, n = rows * c.heads * c.size;
    const std::vector<S> x = random_values<S>(n, 5);
    const std::vector<T> cosines = random_values<T>(c.positions * half, 6, -1.0, 1.0),
                         sines = random_values<T>(c.positions * half, 7, -1.0, 1.0);
    for (const bool back : {false, true}) {
      std::vector<double> expected(x.begin(), x.end());
      for (int64_t i = 0; i < rows * c.heads; ++i) {
        if (i % c.heads >= c.turned) continue;
        for (int64_t j = 0; j < half; ++j) {
          const auto angle = static_cast<size_t>(i / c.heads % c.positions * half + j);
          const auto a = static_cast<size_t>(i * c.size + j), b = a + static_cast<size_t>(half);
          const double cosine = double(cosines[angle]), sine = (back ? -1.0 : 1.0) * double(sines[angle]);
          expected[a] = double(x[a]) * cosine - double(x[b]) * sine;
          expected[b] = double(x[b]) * cosine + double(x[a]) * sine;
        }
      }
      for (const bool in_place : {false, true}) {
        expect_formula<S>(
            std::to_string(c.heads) + " heads of " + std::to_string(c.size), 2.0,
            [&](Backend& backend, Arrays& arrays) {
              S* const to = in_place ? arrays.in_out(x) : arrays.output<S>(n);
              const S* const from = in_place ? to : arrays.input(x);
              backend.rotary(dtype_of<S>, rows, c.positions, c.heads, c.turned, c.size, back, from,
                             arrays.input(cosines), arrays.input(sines), to);
            },
            expected);
      }
    }
  }
}

TYPED_TEST(LanguageKernels, SwigluIsTheFormula) {
  using S = TypeParam;
  for (const RowExtents& e : {RowExtents{1, 1}, {3, 7}, {5, 64}, {2, 2100}, {70, 1000}, {0, 3}}) {
    const int64_t rows = e.rows, columns = e.columns;
    const int64_t n = rows * columns;
    const std::vector<S> h = random_values<S>(2 * n, 8, -20.0, 20.0), dy = random_values<S>(n, 9);
    std::vector<double> y, dh(h.size());
    for (int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<size_t>(i / columns * 2 * columns + i % columns);
      const auto up = at + static_cast<size_t>(columns);
      const double a = double(h[at]), b = double(h[up]), s = 1.0 / (1.0 + std::exp(-a));
      const double gradient = double(dy[static_cast<size_t>(i)]);
      y.push_back(a * s * b);
      dh[at] = gradient * b * s * (1.0 + a * (1.0 - s));
      dh[up] = gradient * a * s;
    }
    const std::string name = std::to_string(rows) + " x " + std::to_string(columns);
    expect_formula<S>(
        "forward " + name, 4.0,
        [&](Backend& backend, Arrays& arrays) {
          S* const to = arrays.output<S>(n);
          backend.swiglu(dtype_of<S>, rows, columns, arrays.input(h), to);
        },
        y);
    // 1 - s, which is multiplied by up to 20.
    expect_formula<S>(
        "backward " + name, sizeof(S) == 2 ? 2.0 : 64.0,
        [&](Backend& backend, Arrays& arrays) {
          S* const to = arrays.output<S>(2 * n);
          backend.swiglu_backward(dtype_of<S>, rows, columns, arrays.input(h), arrays.input(dy), to);
        },
        dh);
  }
}

TEST(FirstKeys, BeginWithTheWindowAndTheDocument) {
  const std::vector<int32_t> documents = {3, 3, 3, 5, 6, 6, 0, 1, 1, 1, 1, 1};  // two samples of six
  const auto found = [&](int64_t batch, int64_t window, bool apart) {
    Arrays arrays(test_backend(), 0);
    int32_t* const first = arrays.output<int32_t>(batch * 6);
    test_backend().first_keys(batch, 6, window, apart ? arrays.input(documents) : nullptr, first);
    std::vector<int32_t> values;
    const std::vector<Arrays::Result> results = arrays.results();
    for (const double value : results[0].values) values.push_back(static_cast<int32_t>(value));
    return values;
  };
  EXPECT_EQ(found(1, 0, false), (std::vector<int32_t>{0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(found(1, 2, false), (std::vector<int32_t>{0, 0, 1, 2, 3, 4}));
  EXPECT_EQ(found(2, 0, true), (std::vector<int32_t>{0, 0, 0, 3, 4, 4, 0, 1, 1, 1, 1, 1}));
  EXPECT_EQ(found(2, 2, true), (std::vector<int32_t>{0, 0, 1, 3, 4, 4, 0, 1, 1, 2, 3, 4}));
}

}  // namespace
}  // namespace lockstep::test
