// The vectorized elementary functions against the C++ library in double, over the whole range of float.
#include <bit>
#include <functional>
#include <numbers>

#include "kernels/arrays.h"
#include "lockstep/kernels/math/unary.h"

namespace lockstep::test {
namespace {

// Distance of `actual` from `exact`, in units in the last place of a float at `exact` (subnormals counted in
// 2^-149).
double units_off(double exact, float actual) {
  if (std::isnan(exact) || std::isnan(actual)) return std::isnan(exact) && std::isnan(actual) ? 0.0 : 1e9;
  const float rounded = static_cast<float>(exact);
  if (std::isinf(rounded) || std::isinf(actual)) return rounded == actual ? 0.0 : 1e9;
  int exponent = 0;
  std::frexp(exact, &exponent);
  return std::fabs(exact - static_cast<double>(actual)) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

// Every 4099th bit pattern, both signs, infinities and NaN; and the neighbourhood of zero, where formulas
// switch.
std::vector<float> float_range() {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 4099) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (float x : random_values<float>(200'000, 3, -20.0, 20.0)) values.push_back(x);
  for (float x :
       {0.0f, -0.0f, 1.0f, -1.0f, INFINITY, -INFINITY, NAN, 88.7f, 88.8f, -87.4f, -103.9f, -104.1f}) {
    values.push_back(x);
  }
  return values;
}

struct Function {
  UnaryOp op;
  const char* name;
  double units;
  double (*exact)(double);
};

const Function kFunctions[] = {
    {UnaryOp::kExp, "exp", 1.01, [](double x) { return std::exp(x); }},
    {UnaryOp::kLog, "log", 1.0, [](double x) { return std::log(x); }},
    {UnaryOp::kTanh, "tanh", 2.5, [](double x) { return std::tanh(x); }},
    {UnaryOp::kSigmoid, "sigmoid", 2.5,
     [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }},
    {UnaryOp::kSoftplus, "softplus", 2.0,
     [](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }},
    {UnaryOp::kErf, "erf", 2.0, [](double x) { return std::erf(x); }},
    {UnaryOp::kSqrt, "sqrt", 0.51, [](double x) { return std::sqrt(x); }},
    {UnaryOp::kReciprocal, "reciprocal", 0.51, [](double x) { return 1.0 / x; }},
};

TEST(Elementary, FloatFunctionsAreWithinTheirStatedErrorOverTheWholeRange) {
  const std::vector<float> x = float_range();
  std::vector<float> y(x.size());
  for (const Function& function : kFunctions) {
    cpu_backend().unary(function.op, DType::kF32, static_cast<int64_t>(x.size()), x.data(), y.data());
    double worst = 0.0;
    float where = 0.0f;
    for (size_t i = 0; i < x.size(); ++i) {
      const double units = units_off(function.exact(static_cast<double>(x[i])), y[i]);
      if (units > worst) worst = units, where = x[i];
    }
    EXPECT_LE(worst, function.units) << function.name << " at " << where;
  }
}

TEST(Elementary, ExpOfWhatIsNotPositiveHasTheBitsOfExp) {
  constexpr float kNormal = -87.33654f;
  std::vector<float> values = {
      0.0f,       -0.0f,      -INFINITY, NAN,     -NAN,   kNormal, std::nextafter(kNormal, -100.0f),
      -0x1p-149f, -0x1p-126f, -103.9f,   -104.0f, -104.1f};
  for (uint64_t bits = uint64_t{1} << 31; bits < (uint64_t{1} << 32); bits += 97) {  // NaN among them
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (float x : random_values<float>(1'000'000, 4, -110.0, 0.0)) values.push_back(x);
  for (const float x : values) {
    const uint32_t bits = std::bit_cast<uint32_t>(math::exp_nonpositive(x));
    ASSERT_EQ(bits, std::bit_cast<uint32_t>(math::exp(x))) << "at " << x;
    // Where it is a normal number; else 0.
    const float normal = math::exp_normal(x);
    ASSERT_EQ(std::bit_cast<uint32_t>(normal), x < kNormal ? 0 : bits) << "at " << x;
    ASSERT_NE(std::fpclassify(normal), FP_SUBNORMAL) << "at " << x;
  }
  for (const double x : {-0.0, -1e-300, -0.5, -700.0, -750.0, -std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(math::exp_nonpositive(x), math::exp(x));
    EXPECT_EQ(math::exp_normal(x), math::exp(x));
  }
}

// Against long double, at every 101st float that is not positive: where the result is a normal number, where
// it is a subnormal one, rounded to a multiple of 2^-149, and where it is 0, from e^x = 2^-126.5 down.
TEST(Elementary, ExpForHalfPrecisionIsWithinItsStatedError) {
  for (uint64_t bits = uint64_t{1} << 31; bits <= std::bit_cast<uint32_t>(-INFINITY); bits += 101) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const long double exact = std::exp(static_cast<long double>(x));
    const float y = math::exp_for<BFloat16>(x);
    if (exact >= 0x1p-126L) {
      ASSERT_NEAR(static_cast<double>(y / exact), 1.0, 2.7e-7 + 1.4e-8 * std::fabs(x)) << "at " << x;
    } else if (exact > 0x1.0001p-127L * std::sqrt(2.0L)) {
      ASSERT_NEAR(y, static_cast<double>(exact), 0x1p-126 * 1.5e-6 + 0x1p-150) << "at " << x;
    } else if (exact < 0x0.ffffp-127L * std::sqrt(2.0L)) {
      ASSERT_EQ(y, 0.0f) << "at " << x;
    }
  }
  EXPECT_EQ(math::exp_for<BFloat16>(0.0f), 1.0f);
  EXPECT_EQ(math::exp_for<Float16>(-0.0f), 1.0f);
  EXPECT_EQ(math::exp_for<Float16>(-INFINITY), 0.0f);
  EXPECT_TRUE(std::isnan(math::exp_for<BFloat16>(NAN)));
  EXPECT_TRUE(std::isnan(math::exp_for<BFloat16>(-NAN)));
  for (const float x : {-0.0f, -0.5f, -87.3f, -87.5f, -103.0f})
    EXPECT_EQ(math::exp_for<float>(x), math::exp_normal(x));
  for (const double x : {-0.0, -0.5, -700.0}) EXPECT_EQ(math::exp_for<double>(x), math::exp(x));
}

TEST(Elementary, GeluIsAccurateInTheTailsAndAtInfinity) {
  const std::vector<float> x = float_range();
  std::vector<float> y(x.size());
  cpu_backend().unary(UnaryOp::kGelu, DType::kF32, static_cast<int64_t>(x.size()), x.data(), y.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = static_cast<double>(x[i]);
    if (std::isinf(value)) {
      EXPECT_EQ(y[i], value > 0 ? value : 0.0);
      continue;
    }
    const double exact = value < -40 ? 0.0 : value * 0.5 * std::erfc(-value / std::sqrt(2.0));
    // Where x Phi(x) nears the subnormals, Phi(x) is one already.
    const double bound = std::fabs(exact) > 0.0 && std::fabs(exact) < 1e-36 ? 2048.0 : 5.0;
    ASSERT_LE(units_off(exact, y[i]), bound) << "at " << x[i] << ": " << y[i] << " for " << exact;
  }
}

// The rounded exponent 2u makes a relative error of |2u| units, which only matters where the result has all
// but vanished.
TEST(Elementary, GeluTanhIsAccurateInTheTailsAndAtInfinity) {
  const std::vector<float> x = float_range();
  std::vector<float> y(x.size());
  cpu_backend().unary(UnaryOp::kGeluTanh, DType::kF32, static_cast<int64_t>(x.size()), x.data(), y.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = static_cast<double>(x[i]);
    if (!std::isfinite(value)) {
      EXPECT_TRUE(std::isnan(value) ? std::isnan(y[i]) : y[i] == (value > 0 ? value : 0.0));
      continue;
    }
    const double exponent = 2.0 * std::sqrt(2.0 / M_PI) * (value + 0.044715 * value * value * value);
    const double exact = value / (1.0 + std::exp(-exponent));
    const double bound = value >= 0 ? 5.0 : 5.0 + 3.0 * std::min(-exponent, 110.0);
    ASSERT_LE(units_off(exact, y[i]), bound) << "at " << x[i] << ": " << y[i] << " for " << exact;
  }
}

// This file is compiled for the oldest processor, the kernels for this one: vector body, masked tail and
// scalar code of another instruction set must agree to the bit.
TEST(Elementary, AnElementHasTheSameBitsInVectorAndScalarCode) {
  const std::vector<float> x = random_values<float>(1000, 5, -30.0, 30.0);
  for (UnaryOp op : {UnaryOp::kExp, UnaryOp::kLog, UnaryOp::kTanh, UnaryOp::kSigmoid, UnaryOp::kSoftplus,
                     UnaryOp::kErf, UnaryOp::kGelu, UnaryOp::kGeluTanh}) {
    std::vector<float> y(x.size());
    for (int64_t offset = 0; offset < 40; ++offset) {
      const int64_t n = 100 - offset;
      cpu_backend().unary(op, DType::kF32, n, x.data() + offset, y.data());
      for (int64_t i = 0; i < n; ++i) {
        const float input = x[static_cast<size_t>(offset + i)];
        math::visit_unary<float>(op, [&](auto functor) {
          const float scalar = decltype(functor)::value(input);
          const float vector = y[static_cast<size_t>(i)];
          if (std::isnan(scalar)) {
            ASSERT_TRUE(std::isnan(vector));
          } else {
            ASSERT_EQ(std::bit_cast<uint32_t>(scalar), std::bit_cast<uint32_t>(vector))
                << "op " << static_cast<int>(op) << " at " << input << ", offset " << offset << ", element "
                << i;
          }
        });
      }
    }
  }
}

// ---- the GELUs of 16 bits, of every argument

template <class S>
constexpr int kDigits = std::is_same_v<S, BFloat16> ? 8 : 11;
template <class S>
constexpr int kLowest = std::is_same_v<S, BFloat16> ? -133 : -24;  // exponent of the smallest subnormal

// From -infinity to infinity, the zeros as -0 and 0; NaNs behind them where wanted.
template <class S>
std::vector<S> every_value(bool with_nan) {
  std::vector<S> negative, positive, rest;
  for (uint32_t bits = 0; bits < 0x8000u; ++bits) {
    const S x = std::bit_cast<S>(static_cast<uint16_t>(bits));
    const S opposite = std::bit_cast<S>(static_cast<uint16_t>(bits | 0x8000u));
    if (std::isnan(static_cast<float>(x))) {
      rest.insert(rest.end(), {x, opposite});
    } else {
      positive.push_back(x);
      negative.push_back(opposite);
    }
  }
  std::vector<S> all(negative.rbegin(), negative.rend());
  all.insert(all.end(), positive.begin(), positive.end());
  if (with_nan) all.insert(all.end(), rest.begin(), rest.end());
  return all;
}

template <class S>
std::vector<S> gelu_of(UnaryOp op, bool derivative, const std::vector<S>& x) {
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<S> y(x.size());
  cpu_backend().unary(op, dtype_of<S>, n, x.data(), y.data());
  if (!derivative) return y;
  const std::vector<S> ones(x.size(), S(1.0f));
  std::vector<S> dx(x.size());
  cpu_backend().unary_backward(op, dtype_of<S>, n, x.data(), y.data(), ones.data(), dx.data());
  return dx;
}

struct NarrowCase {
  UnaryOp op;
  bool derivative;
  const char* name;
  double units[2];  // of bf16 and fp16, half of one being the rounding's
  long double (*exact)(long double);
};

long double gauss(long double x) {
  return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi_v<long double>);
}
long double gauss_integral(long double x) {
  return std::erfc(-x / std::numbers::sqrt2_v<long double>) / 2;
}
long double logistic(long double x) {
  return 1 / (1 + std::exp(-x));
}
const long double kRootEightOverPi = std::sqrt(8 / std::numbers::pi_v<long double>);
long double tanh_form_exponent(long double x) {
  return kRootEightOverPi * (x + 0.044715L * x * x * x);
}

const NarrowCase kNarrowCases[] = {
    {UnaryOp::kGelu, false, "gelu", {0.505, 0.52}, [](long double x) { return x * gauss_integral(x); }},
    {UnaryOp::kGelu,
     true,
     "gelu derivative",
     {0.501, 0.52},
     [](long double x) { return gauss_integral(x) + x * gauss(x); }},
    {UnaryOp::kGeluTanh,
     false,
     "gelu_tanh",
     {0.501, 0.505},
     [](long double x) { return x * logistic(tanh_form_exponent(x)); }},
    // Near its zero the difference that makes it has fp32's error, of 1 and not of itself.
    {UnaryOp::kGeluTanh,
     true,
     "gelu_tanh derivative",
     {0.501, 0.58},
     [](long double x) {
       const long double z = tanh_form_exponent(x);
       return logistic(z) * (1 + x * logistic(-z) * kRootEightOverPi * (1 + 3 * 0.044715L * x * x));
     }},
};

template <class S>
class NarrowGelu : public ::testing::Test {};
using NarrowTypes = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(NarrowGelu, NarrowTypes);

TYPED_TEST(NarrowGelu, IsWithinLittleMoreThanHalfAUnitOfEveryArgument) {
  using S = TypeParam;
  const std::vector<S> x = every_value<S>(true);
  for (const NarrowCase& function : kNarrowCases) {
    const std::vector<S> y = gelu_of(function.op, function.derivative, x);
    long double worst = 0;
    float where = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const float argument = static_cast<float>(x[i]), result = static_cast<float>(y[i]);
      if (std::isnan(argument)) {
        ASSERT_TRUE(std::isnan(result)) << function.name;
        continue;
      }
      if (std::fabs(argument) > 200.0f) {
        const float limit = function.derivative ? 1.0f : argument;
        ASSERT_EQ(result, argument > 0 ? limit : 0.0f) << function.name << " of " << argument;
        continue;
      }
      const long double exact = function.exact(static_cast<long double>(argument));
      int exponent = 0;
      std::frexp(exact, &exponent);
      const long double unit = std::ldexp(1.0L, std::max(exponent - kDigits<S>, kLowest<S>));
      const long double units = std::fabs(exact - static_cast<long double>(result)) / unit;
      if (units > worst) worst = units, where = argument;
    }
    EXPECT_LE(worst, static_cast<long double>(function.units[std::is_same_v<S, Float16>]))
        << function.name << " at " << where;
  }
}

TYPED_TEST(NarrowGelu, FallsToItsMinimumAndRisesFromThere) {
  using S = TypeParam;
  const std::vector<S> x = every_value<S>(false);
  for (const UnaryOp op : {UnaryOp::kGelu, UnaryOp::kGeluTanh}) {
    const std::vector<S> y = gelu_of(op, false, x);
    for (size_t i = 1; i < x.size(); ++i) {
      const float before = static_cast<float>(y[i - 1]), now = static_cast<float>(y[i]);
      if (static_cast<float>(x[i]) <= -0.755f) {
        ASSERT_LE(now, before) << "at " << static_cast<float>(x[i]);
      } else if (static_cast<float>(x[i - 1]) >= -0.75f) {
        ASSERT_GE(now, before) << "at " << static_cast<float>(x[i]);
      }
    }
  }
}

TYPED_TEST(NarrowGelu, KeepsTheSignOfZeroAndApproachesZeroFromBelow) {
  using S = TypeParam;
  const std::vector<S> x = {S(0.0f), S(-0.0f), S(-INFINITY), S(-1e4f), S(-15.0f)};
  for (const UnaryOp op : {UnaryOp::kGelu, UnaryOp::kGeluTanh}) {
    for (const bool derivative : {false, true}) {
      const std::vector<S> y = gelu_of(op, derivative, x);
      for (size_t i = 0; i < x.size(); ++i) {
        const float result = static_cast<float>(y[i]);
        EXPECT_EQ(result, derivative && i < 2 ? 0.5f : 0.0f);
        EXPECT_EQ(std::signbit(result), i > 1 || (!derivative && i == 1)) << static_cast<float>(x[i]);
      }
    }
  }
}

TYPED_TEST(NarrowGelu, HasTheSameBitsInVectorAndScalarCode) {
  using S = TypeParam;
  const std::vector<S> x = every_value<S>(false);
  for (const UnaryOp op : {UnaryOp::kGelu, UnaryOp::kGeluTanh}) {
    const std::vector<S> y = gelu_of(op, false, x), dx = gelu_of(op, true, x);
    math::visit_unary<S>(op, [&](auto functor) {
      using Op = decltype(functor);
      for (size_t i = 0; i < x.size(); ++i) {
        const float argument = static_cast<float>(x[i]);
        ASSERT_EQ(S(Op::value(argument)).bits, y[i].bits) << argument;
        if constexpr (math::kHasBackward<Op>) {
          ASSERT_EQ(S(Op::backward(argument, 0.0f, 1.0f)).bits, dx[i].bits) << argument;
        }
      }
    });
  }
}

TEST(Elementary, ExtremesOfBothPrecisionsStayFiniteWhereTheFunctionIs) {
  const auto check = [](auto type) {
    using T = decltype(type);
    const std::vector<T> x = {T(-1e4), T(1e4), T(-1e30), T(1e30)};
    std::vector<T> y(4);
    const auto run = [&](UnaryOp op) {
      cpu_backend().unary(op, dtype_of<T>, 4, x.data(), y.data());
      return y;
    };
    EXPECT_EQ(run(UnaryOp::kSigmoid), (std::vector<T>{0, 1, 0, 1}));
    EXPECT_EQ(run(UnaryOp::kSoftplus), (std::vector<T>{0, T(1e4), 0, T(1e30)}));
    EXPECT_EQ(run(UnaryOp::kTanh), (std::vector<T>{-1, 1, -1, 1}));
    EXPECT_EQ(run(UnaryOp::kErf), (std::vector<T>{-1, 1, -1, 1}));
    EXPECT_EQ(run(UnaryOp::kGelu), (std::vector<T>{0, T(1e4), 0, T(1e30)}));
    EXPECT_EQ(run(UnaryOp::kGeluTanh), (std::vector<T>{0, T(1e4), 0, T(1e30)}));
    for (const UnaryOp op : {UnaryOp::kGelu, UnaryOp::kGeluTanh}) {
      const std::vector<T> ones(4, T(1));
      std::vector<T> slopes(4);
      cpu_backend().unary_backward(op, dtype_of<T>, 4, x.data(), run(op).data(), ones.data(), slopes.data());
      EXPECT_EQ(slopes, (std::vector<T>{0, 1, 0, 1}));
    }
    EXPECT_EQ(run(UnaryOp::kExp)[0], T(0));
    EXPECT_TRUE(std::isinf(run(UnaryOp::kExp)[1]));
  };
  check(float{});
  check(double{});
}

}  // namespace
}  // namespace lockstep::test
