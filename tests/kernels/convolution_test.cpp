// Convolution and its two derivatives against plain double loops, and that batch and threads leave no trace
// in the bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/arrays.h"
#include "lockstep/core/philox.h"
#include "lockstep/core/thread_pool.h"
#include "lockstep/kernels/backend.h"

namespace lockstep {
namespace {

using test::random_values;

struct Window {
  int64_t n, h, w, c, o, kh, kw, stride_h, stride_w, pad_h, pad_w;
};

template <class T>
ConvolutionArguments arguments_of(const Window& v) {
  ConvolutionArguments a;
  a.dtype = dtype_of<T>;
  a.n = v.n, a.h = v.h, a.w = v.w, a.c = v.c, a.o = v.o, a.kh = v.kh, a.kw = v.kw;
  a.stride_h = v.stride_h, a.stride_w = v.stride_w, a.pad_h = v.pad_h, a.pad_w = v.pad_w;
  a.oh = (v.h + 2 * v.pad_h - v.kh) / v.stride_h + 1;
  a.ow = (v.w + 2 * v.pad_w - v.kw) / v.stride_w + 1;
  return a;
}

std::string name_of(const Window& v) {
  return std::to_string(v.n) + "x" + std::to_string(v.h) + "x" + std::to_string(v.w) + "x" +
         std::to_string(v.c) + " to " + std::to_string(v.o) + " window " + std::to_string(v.kh) + "x" +
         std::to_string(v.kw) + " stride " + std::to_string(v.stride_h) + "," + std::to_string(v.stride_w) +
         " pad " + std::to_string(v.pad_h) + "," + std::to_string(v.pad_w);
}

// Results of the three entries, and of the double loops.
template <class T>
struct Results {
  std::vector<T> y, dx;
  std::vector<Accumulation<T>> dw;
};
struct Expected {
  std::vector<double> y, dx, dw;
  std::vector<double> y_size, dx_size, dw_size;  // sums of magnitudes, which rounding errors are measured by
};

template <class T>
struct Inputs {
  explicit Inputs(const ConvolutionArguments& a)
      : x(random_values<T>(a.n * a.h * a.w * a.c, 1)),
        weights(random_values<T>(a.o * a.kh * a.kw * a.c, 2)),
        bias(random_values<Accumulation<T>>(a.o, 3)),
        dy(random_values<T>(a.n * a.oh * a.ow * a.o, 4)) {}
  std::vector<T> x, weights;
  std::vector<Accumulation<T>> bias;
  std::vector<T> dy;
};

// Each output carries marks behind its end, which must survive.
template <class T>
void expect_marks(std::vector<T>& values, int64_t n, const char* what) {
  for (size_t i = static_cast<size_t>(n); i < values.size(); ++i) EXPECT_EQ(values[i], T(-777)) << what;
  values.resize(static_cast<size_t>(n));
}

template <class T>
Results<T> compute(const ConvolutionArguments& a, const Inputs<T>& in) {
  const int64_t ny = a.n * a.oh * a.ow * a.o, nx = a.n * a.h * a.w * a.c, nw = a.o * a.kh * a.kw * a.c;
  Results<T> r{std::vector<T>(static_cast<size_t>(ny + 33), T(-777)),
               std::vector<T>(static_cast<size_t>(nx + 33), T(-777)),
               std::vector<Accumulation<T>>(static_cast<size_t>(nw + 33), Accumulation<T>(-777))};
  cpu_backend().convolution(a, in.x.data(), in.weights.data(), in.bias.data(), r.y.data());
  cpu_backend().convolution_backward_data(a, in.dy.data(), in.weights.data(), r.dx.data());
  cpu_backend().convolution_backward_weights(a, in.x.data(), in.dy.data(), r.dw.data());
  expect_marks(r.y, ny, "y");
  expect_marks(r.dx, nx, "dx");
  expect_marks(r.dw, nw, "dw");
  return r;
}

template <class T>
Expected reference(const ConvolutionArguments& a, const Inputs<T>& in) {
  Expected e;
  e.y.resize(in.dy.size());
  e.dx.resize(in.x.size());
  e.dw.resize(in.weights.size());
  e.y_size = e.y, e.dx_size = e.dx, e.dw_size = e.dw;
  for (int64_t n = 0; n < a.n; ++n) {
    for (int64_t i = 0; i < a.oh; ++i) {
      for (int64_t j = 0; j < a.ow; ++j) {
        for (int64_t o = 0; o < a.o; ++o) {
          const size_t at_y = static_cast<size_t>(((n * a.oh + i) * a.ow + j) * a.o + o);
          const double dy = static_cast<double>(in.dy[at_y]);
          e.y[at_y] = static_cast<double>(in.bias[static_cast<size_t>(o)]);
          for (int64_t p = 0; p < a.kh; ++p) {
            for (int64_t q = 0; q < a.kw; ++q) {
              const int64_t h = i * a.stride_h - a.pad_h + p, w = j * a.stride_w - a.pad_w + q;
              if (h < 0 || h >= a.h || w < 0 || w >= a.w) continue;
              for (int64_t c = 0; c < a.c; ++c) {
                const size_t at_x = static_cast<size_t>(((n * a.h + h) * a.w + w) * a.c + c);
                const size_t at_w = static_cast<size_t>(((o * a.kh + p) * a.kw + q) * a.c + c);
                const double x = static_cast<double>(in.x[at_x]),
                             weight = static_cast<double>(in.weights[at_w]);
                e.y[at_y] += x * weight;
                e.dx[at_x] += dy * weight;
                e.dw[at_w] += dy * x;
                e.y_size[at_y] += std::abs(x * weight);
                e.dx_size[at_x] += std::abs(dy * weight);
                e.dw_size[at_w] += std::abs(dy * x);
              }
            }
          }
        }
      }
    }
  }
  return e;
}

template <class T>
void expect_close(const std::vector<T>& got, const std::vector<double>& expected,
                  const std::vector<double>& size, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  // Rounding of the result to 16 bits: half a unit of the last of 8 or 11 digits.
  const double rounding = sizeof(T) != 2 ? 0.0 : dtype_of<T> == DType::kBF16 ? 0x1p-8 : 0x1p-11;
  for (size_t i = 0; i < got.size(); ++i) {
    const double bound = 60 * std::numeric_limits<Accumulation<T>>::epsilon() * (1 + size[i]) +
                         rounding * std::abs(expected[i]);
    if (std::abs(static_cast<double>(got[i]) - expected[i]) <= bound) continue;
    FAIL() << what << " element " << i << ": expected " << expected[i] << ", got "
           << static_cast<double>(got[i]) << ", bound " << bound;
  }
}

template <class T>
void check(const Window& window) {
  const ConvolutionArguments a = arguments_of<T>(window);
  const Inputs<T> in(a);
  const Results<T> got = compute(a, in);
  const Expected expected = reference(a, in);
  expect_close(got.y, expected.y, expected.y_size, name_of(window) + " y");
  expect_close(got.dx, expected.dx, expected.dx_size, name_of(window) + " dx");
  expect_close(got.dw, expected.dw, expected.dw_size, name_of(window) + " dw");
}

template <class T>
class ConvolutionOf : public ::testing::Test {};
using Types = ::testing::Types<float, double, BFloat16, Float16>;
TYPED_TEST_SUITE(ConvolutionOf, Types);

TYPED_TEST(ConvolutionOf, AgreesWithDoubleLoopsOnTheShapesOfRealModels) {
  for (const Window& window : {
           Window{6, 8, 8, 1, 16, 3, 3, 1, 1, 1, 1},    // digits, first layer
           Window{5, 8, 8, 16, 32, 3, 3, 2, 2, 1, 1},   // downsampling
           Window{5, 8, 8, 16, 32, 1, 1, 2, 2, 0, 0},   // residual shortcut
           Window{19, 4, 4, 32, 32, 3, 3, 1, 1, 1, 1},  // deep layer
           Window{3, 8, 8, 12, 20, 1, 1, 1, 1, 0, 0},   // pointwise
           Window{2, 32, 32, 3, 8, 3, 3, 1, 1, 1, 1},   // color images, several chunks of dW
           Window{1, 29, 31, 3, 10, 7, 7, 2, 2, 3, 3},
       }) {
    check<TypeParam>(window);
  }
}

TYPED_TEST(ConvolutionOf, AgreesWithDoubleLoopsForRandomWindowsStridesAndPads) {
  const PhiloxKey key = philox_key(17, RandomPurpose::kTest);
  for (uint32_t trial = 0; trial < 150; ++trial) {
    const PhiloxBlock r = philox(key, {trial, 0, 0, 0}), s = philox(key, {trial, 1, 0, 0}),
                      t = philox(key, {trial, 2, 0, 0});
    Window v{1 + r.r[0] % 4, 1 + r.r[1] % 9, 1 + r.r[2] % 9, 1 + r.r[3] % 20, 1 + s.r[0] % 20, 1 + s.r[1] % 4,
             1 + s.r[2] % 4, 1 + s.r[3] % 3, 1 + t.r[0] % 3, t.r[1] % 4,      t.r[2] % 4};
    if (v.h + 2 * v.pad_h < v.kh || v.w + 2 * v.pad_w < v.kw) continue;
    check<TypeParam>(v);
  }
}

TYPED_TEST(ConvolutionOf, WindowsThatSeeOnlyPaddingGiveTheBias) {
  check<TypeParam>({2, 1, 1, 2, 3, 1, 1, 1, 1, 3, 3});
  check<TypeParam>({1, 2, 1, 5, 3, 2, 3, 4, 4, 5, 7});
}

TYPED_TEST(ConvolutionOf, ElementsThatNoWindowSeesHaveDerivativeZero) {
  check<TypeParam>({3, 7, 7, 4, 5, 1, 1, 3, 3, 0, 0});
  check<TypeParam>({3, 9, 8, 4, 5, 2, 2, 4, 3, 0, 0});
}

TYPED_TEST(ConvolutionOf, NoSamplesGiveZeroWeightDerivatives) {
  const ConvolutionArguments a = arguments_of<TypeParam>({0, 5, 5, 3, 4, 3, 3, 1, 1, 1, 1});
  const Results<TypeParam> r = compute(a, Inputs<TypeParam>(a));
  for (const auto value : r.dw) EXPECT_EQ(value, 0);
}

TYPED_TEST(ConvolutionOf, BiasMayBeLeftOut) {
  const ConvolutionArguments a = arguments_of<TypeParam>({2, 6, 6, 3, 5, 3, 3, 1, 1, 1, 1});
  Inputs<TypeParam> in(a);
  std::vector<TypeParam> without(in.dy.size());
  cpu_backend().convolution(a, in.x.data(), in.weights.data(), nullptr, without.data());
  in.bias.assign(in.bias.size(), 0);
  const Results<TypeParam> with = compute(a, in);
  for (size_t i = 0; i < without.size(); ++i) EXPECT_EQ(without[i], with.y[i]);
}

TYPED_TEST(ConvolutionOf, BitsAreTheSameForAnyNumberOfThreads) {
  struct Guard {
    ~Guard() { set_threads(1); }
  } guard;
  for (const Window& window :
       {Window{64, 8, 8, 8, 16, 3, 3, 1, 1, 1, 1}, Window{37, 8, 8, 16, 20, 3, 3, 2, 2, 1, 1},
        Window{5, 24, 24, 3, 9, 5, 5, 1, 1, 2, 2}, Window{70, 6, 6, 24, 10, 1, 1, 1, 1, 0, 0}}) {
    const ConvolutionArguments a = arguments_of<TypeParam>(window);
    const Inputs<TypeParam> in(a);
    set_threads(1);
    const Results<TypeParam> one = compute(a, in);
    for (const int threads : {2, 3, 5}) {
      set_threads(threads);
      const Results<TypeParam> many = compute(a, in);
      EXPECT_EQ(std::memcmp(one.y.data(), many.y.data(), one.y.size() * sizeof(TypeParam)), 0)
          << name_of(window);
      EXPECT_EQ(std::memcmp(one.dx.data(), many.dx.data(), one.dx.size() * sizeof(TypeParam)), 0)
          << name_of(window);
      EXPECT_EQ(std::memcmp(one.dw.data(), many.dw.data(), one.dw.size() * sizeof(one.dw[0])), 0)
          << name_of(window);
    }
  }
}

TYPED_TEST(ConvolutionOf, BitsOfASampleDoNotDependOnItsBatch) {
  const Window window{11, 8, 8, 8, 16, 3, 3, 1, 1, 1, 1};
  const ConvolutionArguments a = arguments_of<TypeParam>(window);
  const Inputs<TypeParam> in(a);
  const Results<TypeParam> all = compute(a, in);
  ConvolutionArguments one = a;
  one.n = 1;
  const int64_t y_sample = a.oh * a.ow * a.o, x_sample = a.h * a.w * a.c;
  std::vector<TypeParam> y(static_cast<size_t>(y_sample)), dx(static_cast<size_t>(x_sample));
  for (int64_t n = 0; n < a.n; ++n) {
    cpu_backend().convolution(one, in.x.data() + n * x_sample, in.weights.data(), in.bias.data(), y.data());
    cpu_backend().convolution_backward_data(one, in.dy.data() + n * y_sample, in.weights.data(), dx.data());
    EXPECT_EQ(std::memcmp(y.data(), all.y.data() + n * y_sample, y.size() * sizeof(TypeParam)), 0) << n;
    EXPECT_EQ(std::memcmp(dx.data(), all.dx.data() + n * x_sample, dx.size() * sizeof(TypeParam)), 0) << n;
  }
}

TYPED_TEST(ConvolutionOf, BitsDoNotDependOnWhereArraysBegin) {
  const ConvolutionArguments a = arguments_of<TypeParam>({3, 6, 6, 8, 10, 3, 3, 1, 1, 1, 1});
  Inputs<TypeParam> in(a);
  // Products so small that units differ in what they make of them.
  for (auto* const values : {&in.x, &in.weights, &in.dy}) {
    for (TypeParam& value : *values) value = static_cast<TypeParam>(static_cast<double>(value) * 0x1p-65);
  }
  in.bias.assign(in.bias.size(), 0);
  const Results<TypeParam> aligned = compute(a, in);
  const auto one_later = [](std::vector<TypeParam> values) {
    values.insert(values.begin(), TypeParam(0));
    return values;
  };
  const std::vector<TypeParam> x = one_later(in.x), weights = one_later(in.weights), dy = one_later(in.dy);
  std::vector<TypeParam> y(aligned.y.size() + 1), dx(aligned.dx.size() + 1);
  cpu_backend().convolution(a, x.data() + 1, weights.data() + 1, in.bias.data(), y.data() + 1);
  cpu_backend().convolution_backward_data(a, dy.data() + 1, weights.data() + 1, dx.data() + 1);
  EXPECT_EQ(std::memcmp(y.data() + 1, aligned.y.data(), aligned.y.size() * sizeof(TypeParam)), 0);
  EXPECT_EQ(std::memcmp(dx.data() + 1, aligned.dx.data(), aligned.dx.size() * sizeof(TypeParam)), 0);
}

}  // namespace
}  // namespace lockstep
