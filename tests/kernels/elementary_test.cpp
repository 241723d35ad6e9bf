// The vectorized elementary functions against the C++ library in double, over the whole range of float.
#include <bit>
#include <functional>

#include "kernels/arrays.h"
#include "kernels/math/unary.h"

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

struct Case {
  UnaryOp op;
  const char* name;
  double units;
  double (*exact)(double);
};

const Case kCases[] = {
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
  for (const Case& function : kCases) {
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
  std::vector<float> values = {0.0f,       -0.0f,      -INFINITY, NAN,     -NAN,
                               -0x1p-149f, -0x1p-126f, -103.9f,   -104.0f, -104.1f};
  for (uint64_t bits = uint64_t{1} << 31; bits < (uint64_t{1} << 32); bits += 97) {  // NaN among them
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (float x : random_values<float>(1'000'000, 4, -110.0, 0.0)) values.push_back(x);
  for (const float x : values) {
    const uint32_t bits = std::bit_cast<uint32_t>(math::exp_nonpositive(x));
    ASSERT_EQ(bits, std::bit_cast<uint32_t>(math::exp(x))) << "at " << x;
  }
  for (const double x : {-0.0, -1e-300, -0.5, -700.0, -750.0, -std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(math::exp_nonpositive(x), math::exp(x));
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
  for (const float x : {-0.0f, -0.5f, -87.5f, -103.0f}) EXPECT_EQ(math::exp_for<float>(x), math::exp(x));
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
        math::visit_unary(op, [&](auto functor) {
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
