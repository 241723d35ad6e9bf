// The functions that learning rates, bias corrections and initial values are made of, against the C library
// in long double.
#include "lockstep/kernels/math/portable.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/arrays.h"

namespace lockstep::test {
namespace {

namespace portable = math::portable;

// |actual - exact| in units in the last place of the double next to exact.
double units_off(double actual, long double exact) {
  if (std::isinf(actual) && std::isinf(static_cast<double>(exact))) return 0.0;
  const double nearest = std::fabs(static_cast<double>(exact));
  int exponent = -1074 + 53;  // of a subnormal number
  if (nearest >= std::numeric_limits<double>::min()) std::frexp(nearest, &exponent);
  return static_cast<double>(std::fabs(std::ldexp(static_cast<long double>(actual) - exact, 53 - exponent)));
}

// The largest error of function over arguments, in units.
template <class Function, class Exact>
void expect_units(const std::vector<double>& arguments, const Function& function, const Exact& exact,
                  double most) {
  double worst = 0.0, where = 0.0;
  for (const double x : arguments) {
    const double units = units_off(function(x), exact(static_cast<long double>(x)));
    if (!(units <= worst)) worst = units, where = x;
  }
  EXPECT_LE(worst, most) << "at " << where;
  testing::Test::RecordProperty("units", std::to_string(worst));
}

constexpr long double kPi = std::numbers::pi_v<long double>;

TEST(Portable, SinAndCosOfPiTimesAreWithinAUnit) {
  std::vector<double> turns = random_values<double>(200'000, 1, 0.0, 2.0);
  for (const double x : random_values<double>(100'000, 2, -40.0, 40.0)) turns.push_back(x);
  for (const double x : random_values<double>(50'000, 3, -1e-3, 1e-3)) turns.push_back(x);
  for (int exponent = -60; exponent < 0; ++exponent) {
    for (const double middle : {0.0, 0.5, 1.0, 1.5}) turns.push_back(middle + std::ldexp(1.0, exponent));
  }
  // Reduced here by halves without an error: sin(pi x) near a multiple of 1/2 loses nothing then.
  const auto exact = [](long double x, int quarters) {
    const long double nearest = std::nearbyint(2.0L * x), rest = kPi * (x - 0.5L * nearest);
    const int turn = static_cast<int>(std::lround(std::fmod(nearest, 4.0L)) + quarters + 4) % 4;
    const long double value = turn % 2 == 0 ? std::sin(rest) : std::cos(rest);
    return turn < 2 ? value : -value;
  };
  expect_units(
      turns, portable::sin_pi, [&](long double x) { return exact(x, 0); }, 1.0);
  expect_units(
      turns, portable::cos_pi, [&](long double x) { return exact(x, 1); }, 1.0);
}

TEST(Portable, SinAndCosOfPiTimesAreExactAtMultiplesOfAQuarterTurn) {
  const double sines[] = {0.0, 1.0, 0.0, -1.0};
  for (int i = -9; i <= 9; ++i) {
    EXPECT_EQ(portable::sin_pi(0.5 * i), sines[(i + 12) % 4]) << i;
    EXPECT_EQ(portable::cos_pi(0.5 * i), sines[(i + 13) % 4]) << i;
  }
  EXPECT_EQ(portable::cos_pi(0x1p50), 1.0);
  EXPECT_EQ(portable::cos_pi(0x1p50 - 1.0), -1.0);
  EXPECT_NEAR(portable::sin_pi(1.0 / 6), 0.5, 1e-16);
}

TEST(Portable, LogIsWithinAUnit) {
  std::vector<double> arguments = random_values<double>(300'000, 4, 0.0, 1.0);
  for (const double x : random_values<double>(100'000, 5, 0.5, 2.0)) arguments.push_back(x);
  for (const double x : random_values<double>(50'000, 6, 1.0 - 1e-6, 1.0 + 1e-6)) arguments.push_back(x);
  for (const double x : random_values<double>(100'000, 7, -740.0, 709.0)) arguments.push_back(std::exp(x));
  for (const double x : {0x1p-53, 0x1p-1074, 0x1p-1022, 1.0 - 0x1p-53, 1.0 + 0x1p-52, 0x1p1023}) {
    arguments.push_back(x);
    arguments.push_back(std::nextafter(x, 0.0) > 0.0 ? std::nextafter(x, 0.0) : x);
  }
  expect_units(
      arguments, portable::log, [](long double x) { return std::log(x); }, 1.0);
  EXPECT_EQ(portable::log(1.0), 0.0);
  EXPECT_EQ(portable::log(0.0), -INFINITY);
  EXPECT_EQ(portable::log(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(portable::log(-1.0)));
  EXPECT_TRUE(std::isnan(portable::log(NAN)));
}

TEST(Portable, PowersOfBetaAreTheNearestNumbersWhateverTheStep) {
  std::vector<double> steps;
  for (int k = 1; k < 3000; ++k) steps.push_back(k);
  for (double k = 3000; k < 1e9; k *= 1.07) steps.push_back(std::floor(k));
  for (const double base : {0.5, 0.8, 0.9, 0.95, 0.96, 0.98, 0.99, 0.999, 0.9999, 1.0 - 0x1p-40}) {
    SCOPED_TRACE(base);
    expect_units(
        steps, [&](double k) { return portable::power(base, k); },
        [&](long double k) { return std::pow(static_cast<long double>(base), k); }, 0.51);
  }
}

TEST(Portable, PowersAreTheNearestNumbersOverTheWholeRange) {
  const std::vector<double> bases = random_values<double>(20'000, 8, 0.0, 3.0),
                            exponents = random_values<double>(20'000, 9, -60.0, 60.0),
                            magnitudes = random_values<double>(20'000, 10, -700.0, 700.0);
  double worst = 0.0;
  for (size_t i = 0; i < bases.size(); ++i) {
    for (const auto& [base, exponent] :
         {std::pair{bases[i], exponents[i]}, std::pair{std::exp(magnitudes[i]), 0.01 * exponents[i]},
          std::pair{1.0 + 1e-4 * bases[i], 1e4 * exponents[i]}}) {
      const long double exact = std::pow(static_cast<long double>(base), static_cast<long double>(exponent));
      if (!(exact < 0x1p1023L && exact > 0x1p-1022L)) continue;
      const double units = units_off(portable::power(base, exponent), exact);
      ASSERT_LE(units, 0.51) << base << " ^ " << exponent;
      worst = std::max(worst, units);
    }
  }
  EXPECT_GT(worst, 0.4);  // else nothing was compared
}

TEST(Portable, PowersThatNumbersHoldAreExactAndTheEndsOfTheRangeAreThoseOfPow) {
  for (int k = 0; k <= 33; ++k) {
    EXPECT_EQ(portable::power(3.0, k), std::pow(3.0, k));
    EXPECT_EQ(portable::power(0.5, k), std::ldexp(1.0, -k));
  }
  for (int k = -1022; k <= 1023; ++k) EXPECT_EQ(portable::power(2.0, k), std::ldexp(1.0, k));
  for (const double base : {0.0, 1.0, 0.3, 7.0, 1e300, 1e-300, 0x1p-1074}) {
    for (const double exponent : {0.0, 1.0, -1.0, 1e-300, 2000.0, -2000.0, 1e300, -1e300}) {
      EXPECT_DOUBLE_EQ(portable::power(base, exponent), std::pow(base, exponent))
          << base << " ^ " << exponent;
    }
  }
  EXPECT_EQ(portable::power(81.0, 0.25), 3.0);
  EXPECT_EQ(portable::power(0.9, 7000), std::pow(0.9, 7000));  // subnormal
  for (const double base : {-1.0, -0.5, static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
    EXPECT_TRUE(std::isnan(portable::power(base, 2.0))) << base;
  }
  EXPECT_TRUE(std::isnan(portable::power(2.0, INFINITY)));
}

}  // namespace
}  // namespace lockstep::test
