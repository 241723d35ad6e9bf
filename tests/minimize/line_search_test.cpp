// The three line searches on the functions of Moré and Thuente, and on hostile ones.
#include "lockstep/minimize/line_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "lockstep/core/error.h"

namespace lockstep {
namespace {

using std::numbers::pi;

// Moré and Thuente 1994, section 5: each with the constants that they use.
struct TestFunction {
  std::function<LinePoint(double a)> at;
  double decrease, curvature;
  int trials[4];  // of more_thuente from 1e-3, 1e-1, 1e1, 1e3: the paper's tables, as MINPACK-2 has them
};

std::vector<TestFunction> functions() {
  const auto first = [](double a) {
    return LinePoint{a, -a / (a * a + 2.0), (a * a - 2.0) / ((a * a + 2.0) * (a * a + 2.0))};
  };
  const auto second = [](double a) {
    const double t = a + 0.004;
    return LinePoint{a, std::pow(t, 5) - 2.0 * std::pow(t, 4), 5.0 * std::pow(t, 4) - 8.0 * std::pow(t, 3)};
  };
  const auto third = [](double a) {
    const double b = 0.01, l = 39.0;
    const double f = a <= 1.0 - b   ? 1.0 - a
                     : a >= 1.0 + b ? a - 1.0
                                    : (a - 1.0) * (a - 1.0) / (2.0 * b) + b / 2.0;
    const double d = a <= 1.0 - b ? -1.0 : a >= 1.0 + b ? 1.0 : (a - 1.0) / b;
    return LinePoint{a, f + 2.0 * (1.0 - b) / (l * pi) * std::sin(l * pi / 2.0 * a),
                     d + (1.0 - b) * std::cos(l * pi / 2.0 * a)};
  };
  const auto yanai = [](double b1, double b2) {
    return [=](double a) {
      const auto gamma = [](double b) { return std::sqrt(1.0 + b * b) - b; };
      const double left = std::sqrt((1.0 - a) * (1.0 - a) + b2 * b2), right = std::sqrt(a * a + b1 * b1);
      return LinePoint{a, gamma(b1) * left + gamma(b2) * right,
                       -gamma(b1) * (1.0 - a) / left + gamma(b2) * a / right};
    };
  };
  return {{first, 1e-3, 0.1, {6, 3, 1, 4}},
          {second, 0.1, 0.1, {12, 8, 8, 11}},
          {third, 0.1, 0.1, {12, 12, 10, 13}},
          {yanai(1e-3, 1e-3), 1e-3, 1e-3, {4, 1, 3, 4}},
          {yanai(1e-2, 1e-3), 1e-3, 1e-3, {6, 3, 7, 8}},
          {yanai(1e-3, 1e-2), 1e-3, 1e-3, {13, 11, 8, 11}}};
}

constexpr double kStarts[] = {1e-3, 1e-1, 1e1, 1e3};

LineSearchResult search(const LineSearchOptions& options, const std::function<LinePoint(double)>& at,
                        double first) {
  const LinePoint start = at(0.0);
  return search_line(
      options, [&](double a, bool) { return at(a); }, start.value, start.slope, first);
}

TEST(MoreThuente, NeedsTheEvaluationsOfThePaper) {
  for (const TestFunction& f : functions()) {
    for (size_t i = 0; i < 4; ++i) {
      const LineSearchOptions options{.type = "more_thuente",
                                      .decrease = f.decrease,
                                      .curvature = f.curvature,
                                      .most_trials = 100,
                                      .longest_step = 4e3 * std::max(1.0, kStarts[i]),
                                      .flat = 0.0};
      const LineSearchResult result = search(options, f.at, kStarts[i]);
      EXPECT_EQ(result.end, LineSearchEnd::kWolfe);
      EXPECT_EQ(result.trials, f.trials[i]) << "from " << kStarts[i];
    }
  }
  const LineSearchOptions options{
      .type = "more_thuente", .decrease = 1e-3, .curvature = 0.1, .longest_step = 4e6};
  const double ends[] = {1.3650, 1.4414, 10.0, 36.888};
  for (size_t i = 0; i < 4; ++i) {
    const double step = search(options, functions()[0].at, kStarts[i]).point.step;
    EXPECT_NEAR(step, ends[i], 1e-4 * ends[i]);
  }
}

TEST(LineSearch, AcceptsWhatTheConditionsAllowAndNothingElse) {
  int wolfe = 0;
  for (const char* type : {"strong_wolfe", "more_thuente", "armijo"}) {
    for (const TestFunction& f : functions()) {
      for (const double first : kStarts) {
        for (const double curvature : {f.curvature, 0.9}) {
          const LineSearchOptions options{.type = type,
                                          .decrease = std::min(f.decrease, curvature),
                                          .curvature = curvature,
                                          .most_trials = 60,
                                          .flat = 0.0};
          const LinePoint start = f.at(0.0);
          const LineSearchResult result = search(options, f.at, first);
          const LinePoint end = f.at(result.point.step);
          ASSERT_NE(result.end, LineSearchEnd::kFailed) << type;
          EXPECT_EQ(result.point.value, end.value);
          EXPECT_LE(end.value, start.value + options.decrease * end.step * start.slope);
          const bool flat_enough = std::fabs(end.slope) <= -curvature * start.slope;
          if (std::string(type) == "armijo") {
            EXPECT_EQ(result.end, LineSearchEnd::kArmijoOnly);
          } else {
            EXPECT_EQ(result.end, LineSearchEnd::kWolfe) << type << " from " << first;
            EXPECT_TRUE(flat_enough);
            ++wolfe;
          }
        }
      }
    }
  }
  EXPECT_EQ(wolfe, 2 * 6 * 4 * 2);
}

TEST(LineSearch, TakesWhatIsNotFiniteForInfinity) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const char* type : {"strong_wolfe", "more_thuente", "armijo"}) {
    for (const double bad : {nan, infinity, -infinity}) {
      // (a - 1/4)^2, of which nothing is known beyond 1/2; the first trial is far out.
      const auto at = [&](double a) {
        if (a > 0.5) return LinePoint{a, bad, nan};
        return LinePoint{a, (a - 0.25) * (a - 0.25), 2.0 * (a - 0.25)};
      };
      const LineSearchResult result = search({.type = type, .most_trials = 60}, at, 1000.0);
      EXPECT_NE(result.end, LineSearchEnd::kFailed) << type;
      EXPECT_LT(result.point.value, 0.0625);
    }
    // And of which nothing is known at all but the start.
    const auto nothing = [&](double a) {
      return a > 0.0 ? LinePoint{a, nan, nan} : LinePoint{0.0, 1.0, -1.0};
    };
    const LineSearchResult result = search({.type = type}, nothing, 1.0);
    EXPECT_EQ(result.end, LineSearchEnd::kFailed) << type;
    EXPECT_EQ(result.point.step, 0.0);
    EXPECT_EQ(result.point.value, 1.0);
    EXPECT_LE(result.trials, 20);
    // Nor of which the slope lies.
    const auto uphill = [](double a) { return LinePoint{a, a > 0.0 ? 2.0 + a : 1.0, -1.0}; };
    EXPECT_EQ(search({.type = type, .flat = 0.0}, uphill, 1.0).end, LineSearchEnd::kFailed) << type;
  }
}

TEST(LineSearch, TellsProgressByTheSlopeWhereValuesAreRounding) {
  // 1e9 + (a - 1e-4)^2 / 2: its decrease of 5e-9 is far below the rounding of 1e9.
  const auto at = [](double a) { return LinePoint{a, 1e9 + 0.5 * (a - 1e-4) * (a - 1e-4), a - 1e-4}; };
  for (const char* type : {"strong_wolfe", "more_thuente"}) {
    const LineSearchResult result = search({.type = type, .curvature = 0.1}, at, 3e-4);
    EXPECT_EQ(result.end, LineSearchEnd::kWolfe) << type;
    EXPECT_NEAR(result.point.step, 1e-4, 1e-5);
  }
}

TEST(LineSearch, SaysWhatItHasWhenTrialsAreUsedUp) {
  const auto second = functions()[1];
  for (const char* type : {"strong_wolfe", "more_thuente"}) {
    const LineSearchOptions options{.type = type, .decrease = 0.1, .curvature = 0.1, .most_trials = 3};
    const LineSearchResult result = search(options, second.at, 1e-3);
    EXPECT_EQ(result.end, LineSearchEnd::kArmijoOnly);
    EXPECT_EQ(result.trials, 3);
    EXPECT_LT(result.point.value, second.at(0.0).value);
  }
  // Downhill for ever.
  const auto slide = [](double a) { return LinePoint{a, -a, -1.0}; };
  for (const char* type : {"strong_wolfe", "more_thuente"}) {
    const LineSearchResult result =
        search({.type = type, .most_trials = 100, .longest_step = 64.0}, slide, 1.0);
    EXPECT_EQ(result.end, LineSearchEnd::kArmijoOnly);
    EXPECT_EQ(result.point.step, 64.0);
  }
}

TEST(LineSearch, RefusesOptionsOutOfRange) {
  EXPECT_THROW(check({.type = "wolfe"}), Error);
  EXPECT_THROW(check({.decrease = 0.0}), Error);
  EXPECT_THROW(check({.curvature = 1.0}), Error);
  EXPECT_THROW(check({.most_trials = 0}), Error);
  EXPECT_THROW(check({.longest_step = 0.0}), Error);
  EXPECT_THROW(check({.flat = -1.0}), Error);
}

}  // namespace
}  // namespace lockstep
